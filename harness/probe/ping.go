package probe

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Ping asks for ICMP echoes. Only Dst is needed.
type Ping struct {
	Dst netip.Addr `json:"dst"`
	// Src is the source address; unset leaves it to the route.
	Src netip.Addr `json:"src,omitzero"`
	// Size is the length in bytes of the whole IP packet, 84 over IPv4 and 104
	// over IPv6 (that of ping's 56 bytes of data) if zero, at least 44 and 64:
	// the payload holds the ID.
	Size int `json:"size,omitempty"`
	// DF sets the don't-fragment bit (with IPv6, keeps the own kernel from
	// fragmenting) and ignores what the kernel remembers of the path's MTU.
	DF bool `json:"df,omitempty"`
	// TTL, or hop limit, of the request; 0 is the kernel's default.
	TTL int `json:"ttl,omitempty"`
	// Count is how many answers are wanted, 1 if zero.
	Count int `json:"count,omitempty"`
	// ID marks the payload of every request, and so of every answer, so that
	// a capture finds them; a fresh one is made if unset.
	ID uuid.UUID `json:"id,omitzero"`
	// Wait is how long a request's answer may take, 400 ms if zero, and
	// Tries how often a request that got none is sent, 3 times if zero.
	Wait  time.Duration `json:"wait,omitempty"`
	Tries int           `json:"tries,omitempty"`
}

const (
	icmpHeader = 8
	idSize     = len(uuid.UUID{})

	maxSize      = 65535
	defaultWait  = 400 * time.Millisecond
	defaultTries = 3
)

func (p *Ping) defaults() error {
	f := icmpOf(p.Dst)
	if p.Size == 0 {
		p.Size = f.usual()
	}
	if p.Count == 0 {
		p.Count = 1
	}
	if p.Wait == 0 {
		p.Wait = defaultWait
	}
	if p.Tries == 0 {
		p.Tries = defaultTries
	}
	if p.ID == (uuid.UUID{}) {
		p.ID = uuid.New()
	}
	switch {
	case !p.Dst.IsValid() || p.Dst.Is4In6() || p.Dst.IsMulticast() || p.Dst.Zone() != "":
		return fmt.Errorf("ping %s: not the address of one machine", p.Dst)
	case p.Src.IsValid() && p.Src.Is4() != p.Dst.Is4():
		return fmt.Errorf("ping %s from %s: they are of two families", p.Dst, p.Src)
	case p.Size < f.smallest() || p.Size > maxSize:
		return fmt.Errorf("ping with a packet of %d bytes: it must have %d to %d", p.Size, f.smallest(), maxSize)
	case p.TTL < 0 || p.TTL > 255:
		return fmt.Errorf("ping with TTL %d: it must be 0 to 255", p.TTL)
	}
	return nil
}

// Pong is what became of a Ping.
type Pong struct {
	ID uuid.UUID `json:"id"`
	// Sent counts the requests that left, those sent again included.
	Sent int `json:"sent"`
	// Replies are the answers, in the order in which they came.
	Replies []Reply `json:"replies,omitempty"`
	// Error is the last ICMP error that came back.
	Error *ICMPError `json:"error,omitempty"`
	// Refused is set when the namespace's own kernel did not send.
	Refused *Refusal `json:"refused,omitempty"`
	// Waited is how long the answers that did not come were waited for.
	Waited time.Duration `json:"waited,omitempty"`
}

// Reply is one answer.
type Reply struct {
	From netip.Addr `json:"from"`
	// TTL as it was received.
	TTL int           `json:"ttl"`
	RTT time.Duration `json:"rtt"`
	// Size in bytes of the IP packet.
	Size int `json:"size"`
	// What it is, where it answers a Knock.
	What string `json:"what,omitempty"`
}

func (r Reply) String() string {
	if r.What != "" {
		return fmt.Sprintf("%s, rtt %.2fms", r.What, float64(r.RTT.Microseconds())/1000)
	}
	return fmt.Sprintf("ttl=%d rtt %.2fms", r.TTL, float64(r.RTT.Microseconds())/1000)
}

// ICMPError is an ICMP error that quotes the request.
type ICMPError struct {
	From netip.Addr `json:"from"`
	Type uint8      `json:"type"`
	Code uint8      `json:"code"`
	// MTU in bytes of the next hop, with type 3 code 4, or type 2 of ICMPv6.
	MTU int `json:"mtu,omitempty"`
}

func (e ICMPError) String() string {
	if e.From.Is6() {
		return e.string6()
	}
	what := fmt.Sprintf("ICMP %d/%d", e.Type, e.Code)
	switch {
	case e.Type == 3 && e.Code == 4:
		what += fmt.Sprintf(" fragmentation needed, mtu %d,", e.MTU)
	case e.Type == 3 && e.Code == 0:
		what += " network unreachable"
	case e.Type == 3 && e.Code == 1:
		what += " host unreachable"
	case e.Type == 3 && e.Code == 13:
		what += " prohibited"
	case e.Type == 11 && e.Code == 0:
		what += " time exceeded"
	}
	return what + " from " + e.From.String()
}

// string6 names the errors of ICMPv6 (RFC 4443).
func (e ICMPError) string6() string {
	what := fmt.Sprintf("ICMPv6 %d/%d", e.Type, e.Code)
	switch {
	case e.Type == 2:
		what += fmt.Sprintf(" packet too big, mtu %d,", e.MTU)
	case e.Type == 1 && e.Code == 0:
		what += " no route"
	case e.Type == 1 && e.Code == 1:
		what += " prohibited"
	case e.Type == 1 && e.Code == 3:
		what += " address unreachable"
	case e.Type == 3 && e.Code == 0:
		what += " time exceeded"
	}
	return what + " from " + e.From.String()
}

// Refusal is the local kernel's refusal to send.
type Refusal struct {
	// Errno is the error's name, as EMSGSIZE.
	Errno string `json:"errno"`
	// MTU in bytes that the kernel named, with EMSGSIZE.
	MTU int `json:"mtu,omitempty"`
}

func (r Refusal) String() string {
	if r.MTU != 0 {
		return fmt.Sprintf("%s, mtu %d", r.Errno, r.MTU)
	}
	return r.Errno
}

// Answered reports whether every answer that was asked for came.
func (p *Pong) Answered() bool {
	return len(p.Replies) > 0 && p.Error == nil && p.Refused == nil && p.Waited == 0
}

// String says in a few words what came of it.
func (p *Pong) String() string {
	var parts []string
	if len(p.Replies) > 0 {
		parts = append(parts, p.Replies[len(p.Replies)-1].String())
	}
	if p.Refused != nil {
		parts = append(parts, p.Refused.String())
	}
	if p.Error != nil {
		parts = append(parts, p.Error.String())
	}
	if p.Waited > 0 {
		parts = append(parts, fmt.Sprintf("no answer to %d requests in %v", p.Sent, p.Waited.Round(time.Millisecond)))
	}
	if len(parts) == 0 {
		return "nothing sent"
	}
	return strings.Join(parts, "; ")
}

// Ping sends echo requests and waits for the answers. A request that is
// refused or not answered is no error: the Pong says so. The error is for a
// request that makes no sense, a broken session, or the end of ctx.
func (s *Session) Ping(ctx context.Context, p Ping) (Pong, error) {
	if err := p.defaults(); err != nil {
		return Pong{}, fmt.Errorf("ping from %s: %w", s.name, err)
	}
	return ask(ctx, s, kindPing, p, func() (Pong, error) { return s.ping(ctx, p) })
}

func (s *Session) ping(ctx context.Context, p Ping) (Pong, error) {
	pinger := s.pings
	if p.Dst.Is6() {
		if pinger = s.pings6; pinger == nil {
			return Pong{}, fmt.Errorf("ping %s from %s: this kernel has no IPv6", p.Dst, s.name)
		}
	}
	pong, err := pinger.ping(ctx, p)
	if err != nil {
		return pong, fmt.Errorf("ping from %s: %w", s.name, err)
	}
	return pong, nil
}

// window is how many pings of one batch are under way in a session at once:
// enough to hide the round trip, few enough for the socket's buffer.
const window = 32

// PingAll sends many pings at once. The answers have the order of the
// requests; the error is the first one.
func (s *Session) PingAll(ctx context.Context, pings []Ping) ([]Pong, error) {
	pongs := make([]Pong, len(pings))
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
		next  = make(chan int)
	)
	for range min(window, len(pings)) {
		wg.Go(func() {
			for i := range next {
				var err error
				if pongs[i], err = s.Ping(ctx, pings[i]); err != nil {
					once.Do(func() { first = err })
				}
			}
		})
	}
	for i := range pings {
		next <- i
	}
	close(next)
	wg.Wait()
	return pongs, first
}
