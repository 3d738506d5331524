package walk_test

import (
	"net"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/walk"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// serve has a pod take connections at a TCP port, and datagrams at a UDP port
// of the same number that it answers, and at the next that it does not.
func serve(t *testing.T, lab *labtest.Lab, name string, port int) {
	t.Helper()
	ns, err := lab.Namespace(name)
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	var loud, silent *net.UDPConn
	err = ns.(topology.Local).Do(func() (err error) {
		if l, err = net.ListenTCP("tcp", &net.TCPAddr{Port: port}); err != nil {
			return err
		}
		if loud, err = net.ListenUDP("udp", &net.UDPAddr{Port: port}); err != nil {
			return err
		}
		silent, err = net.ListenUDP("udp", &net.UDPAddr{Port: port + 1})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _, _ = l.Close(), loud.Close(), silent.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			_, from, err := loud.ReadFromUDP(b)
			if err != nil {
				return
			}
			_, _ = loud.WriteToUDP([]byte("yes"), from)
		}
	}()
}

// TestPort: a SYN and a datagram are followed as an echo is, and their answer,
// whichever it is.
func TestPort(t *testing.T) {
	for _, test := range []struct {
		name     string
		protocol string
		port     int
		spoil    string // in node-1-pod-1
		verdict  walk.Verdict
		answer   string
		// last is the transport's header at the last step; cause that of what
		// went wrong.
		last, cause string
	}{
		{"TCP, open", "tcp", 80, "", walk.Arrived, "SYN-ACK, rtt", "SYN-ACK", ""},
		{"TCP, closed", "tcp", 90, "", walk.Arrived, "RST, rtt", "RST-ACK", ""},
		{"UDP, answered", "udp", 80, "", walk.Arrived, "a datagram, rtt", "UDP 80 > ", ""},
		{"UDP, closed", "udp", 90, "", walk.Arrived, "ICMP port unreachable, rtt", "ICMP port unreachable", ""},
		{"UDP, not answered", "udp", 81, "", walk.Arrived, "no answer to 1 requests", "UDP ", ""},
		{"TCP, dropped", "tcp", 80, "nft 'add table ip f; add chain ip f in { type filter hook input priority 0; }; add rule ip f in tcp dport 80 counter drop'",
			walk.Diverged, "no answer", "", "of chain ip f in drops, whose counter rises"},
	} {
		t.Run(test.name, func(t *testing.T) {
			lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
			serve(t, lab, "node-1-pod-1", 80)
			if test.spoil != "" {
				lab.Exec(t, "node-1-pod-1", "sh", "-ec", test.spoil)
			}
			r := run(t, lab, "master-pod-1", "node-1-pod-1", walk.Options{Protocol: test.protocol, Port: test.port})
			if r.Verdict != test.verdict || !strings.Contains(r.Answer, test.answer) {
				t.Errorf("%s: %s, %+v", r.Verdict, r.Answer, r.Divergence)
			}
			if test.cause != "" {
				if !strings.Contains(r.Divergence.Cause, test.cause) {
					t.Errorf("the cause is %q, without %q", r.Divergence.Cause, test.cause)
				}
				return
			}
			legs := r.Legs()
			steps := legs[len(legs)-1].Steps
			if len(steps) != 12 || steps[11].Seen == nil || !strings.Contains(steps[11].Seen.Transport, test.last) {
				t.Errorf("%d steps, the last %+v", len(steps), steps[len(steps)-1].Seen)
			}
			if r.Silent != (len(legs) == 1) || len(r.Doubts) > 0 || len(r.Notes) > 1 {
				t.Errorf("silent %v, notes %q, doubts %q", r.Silent, r.Notes, r.Doubts)
			}
		})
	}
}
