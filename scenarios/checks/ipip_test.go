package checks

import (
	"strings"
	"testing"

	"github.com/onsi/gomega/types"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/internal/labtest"
)

// findings records what does not match, as an Env would.
type findings []string

func (f *findings) Expect(_ string, actual any, m types.GomegaMatcher) bool {
	ok, err := m.Match(actual)
	if err != nil {
		*f = append(*f, err.Error())
	} else if !ok {
		expected, seen := m.(match.Explainer).Explain(actual)
		*f = append(*f, "expected "+expected+", seen "+seen)
	}
	return ok && err == nil
}

// TestIPIPPackets shows BE-03 packets that no lab makes. They are written down:
// an echo request of 10.244.1.2 to 10.244.2.2, in IP
// from node-1 to node-2.
func TestIPIPPackets(t *testing.T) {
	plan := labtest.Plan(3, 2, 1500)
	ethernet := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}
	ip := func(ttl, proto, length byte, src, dst [4]byte) []byte {
		h := []byte{0x45, 0, 0, length, 0, 0, 0x40, 0, ttl, proto, 0, 0}
		return append(append(h, src[:]...), dst[:]...)
	}
	icmp := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	node1, node2 := plan.Nodes[1].PublicIP().As4(), plan.Nodes[2].PublicIP().As4()
	pod1, pod2 := [4]byte{10, 244, 1, 2}, [4]byte{10, 244, 2, 2}
	frame := func(parts ...[]byte) []byte {
		out := append([]byte{}, ethernet...)
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	for name, c := range map[string]struct {
		frame []byte
		want  string
	}{
		"as it ought to be": {frame(ip(63, 4, 48, node1, node2), ip(63, 1, 28, pod1, pod2), icmp), ""},
		"bare":              {frame(ip(63, 1, 28, pod1, pod2), icmp), "expected IP in IP 172.16.1.9 > 172.16.1.10, seen bare ICMP 10.244.1.2 > 10.244.2.2, ttl 63"},
		"to another node":   {frame(ip(63, 4, 48, node1, plan.Nodes[0].PublicIP().As4()), ip(63, 1, 28, pod1, pod2), icmp), "seen IP in IP 172.16.1.9 > 172.16.1.8"},
		"another protocol":  {frame(ip(63, 47, 48, node1, node2), ip(63, 1, 28, pod1, pod2), icmp), "seen IP protocol 47"},
		"a TTL of its own":  {frame(ip(64, 4, 48, node1, node2), ip(63, 1, 28, pod1, pod2), icmp), "expected outer ttl 63, seen outer ttl 64"},
		"an extra hop":      {frame(ip(62, 4, 48, node1, node2), ip(62, 1, 28, pod1, pod2), icmp), "expected inner ttl 63, seen inner ttl 62"},
	} {
		p := packet{src: &plan.Nodes[1], dst: &plan.Nodes[2], innerTTL: 63, decoded: capture.Decode(c.frame, 8472)}
		var got findings
		expectIPIP(&got, p)
		if text := strings.Join(got, "; "); text != "" && c.want == "" || !strings.Contains(text, c.want) {
			t.Errorf("%s: the findings are %q, not %q", name, text, c.want)
		}
		if name == "as it ought to be" {
			if lines := p.decoded.Lines(); len(lines) != 4 || !strings.Contains(lines[3], "10.244.1.2 > 10.244.2.2: ICMP echo request") {
				t.Errorf("printed: %q", lines)
			}
		}
	}
}
