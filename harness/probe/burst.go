package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/uuid"
)

// Burst is datagrams of many flows at once: each flow has a socket, and so a
// source port, of its own.
type Burst struct {
	To netip.AddrPort `json:"to"`
	// Flows is how many there are, and Datagrams how many each sends.
	Flows     int `json:"flows"`
	Datagrams int `json:"datagrams"`
	// ID begins every payload; a big-endian uint32 with the flow's number, from
	// 0, follows.
	ID uuid.UUID `json:"id"`
}

// Burst sends the datagrams, a round of all flows after the other. No answer is
// waited for.
func (s *Session) Burst(ctx context.Context, b Burst) error {
	return tell(ctx, s, kindBurst, b, func() error { return s.burst(ctx, b) })
}

func (s *Session) burst(ctx context.Context, b Burst) error {
	conns := make([]*net.UDPConn, 0, b.Flows)
	err := s.local.Do(func() error {
		for range b.Flows {
			c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(b.To))
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
		return nil
	})
	for round := 0; round < b.Datagrams && err == nil; round++ {
		for i, c := range conns {
			if err = ctx.Err(); err != nil {
				break
			}
			if _, err = c.Write(binary.BigEndian.AppendUint32(b.ID[:], uint32(i))); err != nil {
				break
			}
		}
	}
	for _, c := range conns {
		err = errors.Join(err, c.Close())
	}
	if err != nil {
		return fmt.Errorf("send %d flows from %s to %s: %w", b.Flows, s.name, b.To, err)
	}
	return nil
}
