package probe_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// listen has a pod take connections at a TCP port and answer datagrams at a
// UDP port of the same number.
func listen(t *testing.T, lab *labtest.Lab, name string, port int) {
	t.Helper()
	ns, err := lab.Namespace(name)
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	var c *net.UDPConn
	err = ns.(topology.Local).Do(func() (err error) {
		if l, err = net.ListenTCP("tcp", &net.TCPAddr{Port: port}); err != nil {
			return err
		}
		c, err = net.ListenUDP("udp", &net.UDPAddr{Port: port})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = l.Close(), c.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			_, from, err := c.ReadFromUDP(b)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDP([]byte("yes"), from)
		}
	}()
}

// TestKnock: what answers is named, by each protocol and each IP version.
func TestKnock(t *testing.T) {
	lab := labtest.Up(t, labtest.DualPlan(2, 1, 1500))
	listen(t, lab, "node-1-pod-1", 80)
	s := open(t, lab, "master-pod-1")
	short := 50 * time.Millisecond
	pod6 := nodePod6
	for _, test := range []struct {
		name  string
		knock probe.Knock
		says  string
	}{
		{"open, TCP", probe.Knock{Protocol: "tcp", Dst: nodePod, Port: 80}, "SYN-ACK, rtt"},
		{"closed, TCP", probe.Knock{Protocol: "tcp", Dst: nodePod, Port: 81}, "RST, rtt"},
		{"open, UDP", probe.Knock{Protocol: "udp", Dst: nodePod, Port: 80, Size: 1450}, "a datagram, rtt"},
		{"closed, UDP", probe.Knock{Protocol: "udp", Dst: nodePod, Port: 81}, "ICMP port unreachable, rtt"},
		{"used up on its way, TCP", probe.Knock{Protocol: "tcp", Dst: nodePod, Port: 80, TTL: 1}, "time exceeded from 10.244.0.1"},
		{"used up on its way, UDP", probe.Knock{Protocol: "udp", Dst: nodePod, Port: 80, TTL: 1}, "time exceeded from 10.244.0.1"},
		{"nobody", probe.Knock{Protocol: "udp", Dst: netip.MustParseAddr("10.244.1.99"), Port: 80, Wait: short}, "no answer to 1 requests"},
		{"too large", probe.Knock{Protocol: "udp", Dst: nodePod, Port: 80, Size: 1451, DF: true}, "EMSGSIZE"},
		{"open, TCP over IPv6", probe.Knock{Protocol: "tcp", Dst: pod6, Port: 80}, "SYN-ACK, rtt"},
		{"closed, TCP over IPv6", probe.Knock{Protocol: "tcp", Dst: pod6, Port: 81}, "RST, rtt"},
		{"open, UDP over IPv6", probe.Knock{Protocol: "udp", Dst: pod6, Port: 80}, "a datagram, rtt"},
		{"closed, UDP over IPv6", probe.Knock{Protocol: "udp", Dst: pod6, Port: 81}, "ICMP port unreachable, rtt"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.knock.ID = uuid.New()
			pong, err := s.Knock(t.Context(), test.knock)
			if err != nil {
				t.Fatal(err)
			}
			if got := pong.String(); !strings.Contains(got, test.says) {
				t.Errorf("%s, without %q", got, test.says)
			}
			if answered := strings.Contains(test.says, "rtt"); pong.Answered() != answered {
				t.Errorf("answered: %v: %+v", pong.Answered(), pong)
			}
		})
	}
	for _, wrong := range []probe.Knock{
		{Protocol: "sctp", Dst: nodePod, Port: 80}, {Protocol: "tcp", Dst: nodePod}, {Protocol: "tcp", Port: 80},
		{Protocol: "udp", Dst: nodePod, Port: 80, Size: 43}, {Protocol: "udp", Dst: nodePod, Port: 80, TTL: 256},
	} {
		if _, err := s.Knock(t.Context(), wrong); err == nil {
			t.Errorf("%+v makes no sense", wrong)
		}
	}
}
