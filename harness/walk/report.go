// Package walk follows one packet through a lab: it predicts its way from the
// state of every namespace, sends one that is marked, captures it at every
// interface, and compares what was seen with what was to be expected.
package walk

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/walk/predict"
)

// Verdict is what a walk comes to.
type Verdict string

// The verdicts.
const (
	// Arrived: the packet and its answer went the predicted way.
	Arrived Verdict = "arrived"
	// Diverged: they did not arrive, or went another way.
	Diverged Verdict = "diverged"
	// Inconclusive: the capture lost frames, so that not to have seen one says
	// nothing.
	Inconclusive Verdict = "inconclusive"
)

// Report is a walk.
type Report struct {
	// APIVersion names the schema of the JSON.
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Lab        string   `json:"lab"`
	Backend    string   `json:"backend"`
	From       Endpoint `json:"from"`
	To         Endpoint `json:"to"`
	// ID is the mark in the packet's payload.
	ID     uuid.UUID      `json:"id"`
	Packet predict.Packet `json:"packet"`
	// Count is how many packets were to be sent; the steps show the first.
	Count   int           `json:"count"`
	Began   time.Time     `json:"began"`
	Took    time.Duration `json:"took"`
	Verdict Verdict       `json:"verdict"`
	Request Leg           `json:"request"`
	// Reply is the way back, unless the request was not to arrive.
	Reply *Leg `json:"reply,omitempty"`
	// Answer is what the sender was told, as ping would print it.
	Answer string     `json:"answer"`
	Pong   probe.Pong `json:"pong"`
	// Silent says that nobody answered a datagram that arrived: what it was
	// for need not.
	Silent bool `json:"silent,omitempty"`
	// Divergence is the first point where it went wrong.
	Divergence *Divergence `json:"divergence,omitempty"`
	// Doubts are reasons for which the capture may lack frames.
	Doubts []string `json:"doubts,omitempty"`
	// Notes are worth knowing, and no fault.
	Notes []string `json:"notes,omitempty"`
	// Drops are where the kernel threw the packet away, in the order of time:
	// also flooded copies of it, and answers that a second socket did not want.
	// They are asked for where no answer came: those of the packet itself if the
	// state foretold it, else those of another like it.
	Drops []Dropped `json:"drops,omitempty"`
	// Untraced is why the kernel's drops are not known, or not all.
	Untraced string `json:"untraced,omitempty"`
	// Limits are what was not looked at, for there is much of it.
	Limits []string `json:"limits,omitempty"`
	Taps   []Tap    `json:"taps"`

	captured []Captured
}

// Endpoint is where a packet is sent from or to.
type Endpoint struct {
	Name string `json:"name"`
	// Node is the pod's node; the endpoint's own name if it is a node.
	Node    string     `json:"node"`
	Address netip.Addr `json:"address"`
}

func (e Endpoint) String() string {
	if e.Node != e.Name {
		return fmt.Sprintf("%s %s on %s", e.Name, e.Address, e.Node)
	}
	return fmt.Sprintf("%s %s", e.Name, e.Address)
}

// Leg is one direction.
type Leg struct {
	Steps []Step `json:"steps"`
	// Predicted is the reason for which it was not to arrive, from the state.
	Predicted *predict.Drop `json:"predicted,omitempty"`
}

// Step is one interface on the way.
type Step struct {
	// Number counts the steps of both legs, from 1.
	Number int `json:"number"`
	predict.Hop
	// Seen is the packet as it was captured there; nil if it was not.
	Seen *Seen `json:"seen,omitempty"`
	// Differences are what was not as predicted.
	Differences []string `json:"differences,omitempty"`
}

// Seen is a captured packet.
type Seen struct {
	Time time.Time `json:"time"`
	// After is the time since the step before was seen.
	After time.Duration `json:"after"`
	// Apart says that the step before was seen on another machine, whose clock
	// is another: After is not given.
	Apart bool          `json:"apart,omitempty"`
	Frame predict.Frame `json:"frame"`
	// Length in bytes of the whole frame.
	Length int `json:"length"`
	// Count is how many of the packets were seen here.
	Count int `json:"count"`
	// By says what the frame was known by where the mark is not to be read.
	By string `json:"by,omitempty"`
	// Fragment says that it is the first of several.
	Fragment bool `json:"fragment,omitempty"`
	// SourcePort is that of the outer UDP header.
	SourcePort uint16 `json:"sourcePort,omitempty"`
	// Transport is the innermost header of TCP, UDP or ICMP in words, where
	// the packet is for a port.
	Transport string `json:"transport,omitempty"`

	raw capture.Frame
}

// Divergence is where the packet did not go on as it should, and why.
type Divergence struct {
	// Leg is request or reply.
	Leg string `json:"leg"`
	// Step is the last one that the packet took, 0 if none.
	Step int `json:"step"`
	// Where is the place, as node-1:flannel.1.
	Where string `json:"where"`
	// What was seen in one line.
	What string `json:"what"`
	// Cause is the reason, from the state or the counters.
	Cause string `json:"cause"`
	// Mend is a command, and On where to run it.
	Mend string `json:"mend,omitempty"`
	On   string `json:"on,omitempty"`
	// Confirmed says that the state predicted the end where it was seen, or that
	// the kernel tells of it.
	Confirmed bool `json:"confirmed"`
	// Dropped is what the kernel itself says, where it was traced.
	Dropped *Dropped `json:"dropped,omitempty"`
}

// Dropped is the kernel's word on a packet that it threw away.
type Dropped struct {
	Time time.Time `json:"time"`
	// Leg is request or reply; empty for an ICMP error that quotes the packet.
	Leg string `json:"leg,omitempty"`
	// Space and Interface are where; the latter is empty if it has gone.
	Space     string `json:"space"`
	Interface string `json:"interface,omitempty"`
	// Reason is the kernel's name for it, as NETFILTER_DROP, and Function the
	// function that gave it.
	Reason   string `json:"reason"`
	Function string `json:"function"`
}

func (d Dropped) String() string {
	return fmt.Sprintf("%s in %s, at %s", d.Reason, d.Function, place{space: d.Space, dev: d.Interface})
}

// Tap is one point of capture.
type Tap struct {
	Name     string `json:"name"`
	Received uint64 `json:"received"`
	Dropped  uint64 `json:"dropped"`
	// Marked counts the frames that carry the mark.
	Marked int `json:"marked"`
}

// Captured is a frame for a file of captures.
type Captured struct {
	capture.Frame
	// Step is the number of its step, 0 if it has none.
	Step int
	// Does is the step's sentence.
	Does string
}

// Captured returns the frames of the walk in the order of time: those of the
// steps, and others that carry the mark.
func (r *Report) Captured() []Captured { return r.captured }

// Legs returns the legs there are, with their names.
func (r *Report) Legs() []NamedLeg {
	legs := []NamedLeg{{"request", &r.Request}}
	if r.Reply != nil {
		legs = append(legs, NamedLeg{"reply", r.Reply})
	}
	return legs
}

// NamedLeg is a leg and its name.
type NamedLeg struct {
	Name string
	*Leg
}
