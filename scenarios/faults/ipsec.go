package faults

import (
	"fmt"
	"strings"

	"github.com/overlab/overlab/harness/suite"
)

// ipsecFaults are those of what the kernel encrypts, and with what.
func ipsecFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.IPsec}
	return []Fault{
		{
			ID: "XFRM-02", Title: "{node} has no policy that encrypts for {peer}'s pods", Breaks: "packets for {peer}'s pods leave {node} in the clear, and are dropped there",
			Case:   "`ip xfrm policy flush` of a VPN that ends",
			Checks: []string{"BE-05", "TTL-03", "NM-02"}, Causes: []string{"ipsec-policy"}, Needs: needs,
			Break: func(s *Scene) {
				which := fmt.Sprintf("src %s dst %s dir out", s.node.PodCIDR.Masked(), s.peer.PodCIDR.Masked())
				there := s.xfrm("policy", "src "+s.node.PodCIDR.Masked().String()+" dst "+s.peer.PodCIDR.Masked().String())
				if there == nil {
					return
				}
				s.pause(s.node)
				s.on(s.node.Name, "ip xfrm policy delete "+which, "ip xfrm policy update "+which+" priority "+there["priority"]+
					fmt.Sprintf(" tmpl src %s dst %s proto esp reqid %s mode tunnel", s.node.PublicIP(), s.peer.PublicIP(), there["reqid"]))
			},
		},
		{
			ID: "XFRM-03", Title: "{node} has no key for what it sends to {peer}", Breaks: "pods of {node} do not reach those of {peer}",
			Case:   "`ip xfrm state flush` of a VPN that ends",
			Checks: []string{"TTL-03", "NM-02", "BE-05"}, Causes: []string{"ipsec-state"}, Needs: needs,
			Break: func(s *Scene) {
				which := fmt.Sprintf("src %s dst %s", s.node.PublicIP(), s.peer.PublicIP())
				there := s.xfrm("state", which)
				if there == nil {
					return
				}
				s.pause(s.node)
				// What was made once may not be made again: its agent agrees on other
				// keys when it goes on.
				s.on(s.node.Name, "ip xfrm state delete "+which+" proto esp spi "+there["spi"], "")
			},
		},
	}
}

// xfrm is what ip(8) says of the node's first policy or state that begins so,
// the words that follow each other as names and values.
func (s *Scene) xfrm(table, begins string) map[string]string {
	text, err := output(s.ctx, s.lab, s.node.Name, []string{"ip", "xfrm", table})
	if err != nil {
		s.fail("read the IPsec %s of %s: %w", table, s.node.Name, err)
		return nil
	}
	_, text, found := strings.Cut("\n"+text, "\n"+begins)
	if !found {
		s.fail("%s has no IPsec %s of %s", s.node.Name, table, begins)
		return nil
	}
	text, _, _ = strings.Cut(text, "\nsrc ")
	words := strings.Fields(text)
	out := map[string]string{}
	for i := range len(words) - 1 {
		if out[words[i]] == "" {
			out[words[i]] = words[i+1]
		}
	}
	return out
}
