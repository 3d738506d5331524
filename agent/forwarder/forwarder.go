// Package forwarder runs what moves an overlay's packets in userspace: a
// process of its own that outlives the agent, so that stopping or killing the
// agent costs no packet.
//
// The device is a persistent TUN, which the agent keeps as it keeps every link
// (agent/datapath). The forwarder is the agent's executable again, detached
// ("overlabd forward KIND …"). It attaches to the device and listens on a unix
// socket in the folder of subnet.env. An agent finds it there and hands over
// all that it is to know of the peers, one message for the whole; one that is of
// another build, or has other options, is ended and replaced. The agent holds
// the connection: its end says that the forwarder is gone.
//
//	agent (Client) --- /run/flannel/flannel0.sock --- forwarder (Main)
//	                                                   |       |
//	                                               Engine --- underlay socket
//	                                                   |
//	                                               flannel0 (TUN)
//
// A forwarder ends by itself when its device is deleted or its socket's file is
// gone.
package forwarder

import (
	"encoding/json"
	"log/slog"
)

// An Engine moves packets between a TUN device and the underlay.
type Engine interface {
	// Update replaces all that the engine knows of the peers, in one step for
	// the packets. It may be called while Run runs, one call at a time.
	Update(peers json.RawMessage) error
	// Run moves packets until Close is called, and then returns nil. Its error
	// says why it cannot go on, such as a device that was deleted.
	Run() error
	// Close ends Run and closes the device.
	Close() error
}

// NewEngine makes an engine. device is a descriptor as tuntap.Attach returns it;
// it is the engine's to close, also where it fails. options are those of the
// Spec.
type NewEngine func(device int, options json.RawMessage, log *slog.Logger) (Engine, error)

// Spec says which forwarder a node needs.
type Spec struct {
	// Kind names the engine.
	Kind string `json:"kind"`
	// Device is the name of the TUN device, and of the socket's file.
	Device string `json:"device"`
	// Options are the engine's own; to change them takes another forwarder.
	Options json.RawMessage `json:"options"`
}
