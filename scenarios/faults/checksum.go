package faults

import "github.com/overlab/overlab/harness/suite"

// tcpChecksum is where, in bits behind the outer UDP header's beginning, the
// inner TCP checksum is: UDP 8, VXLAN 8, Ethernet 14, IPv4 20 bytes, and 16 in
// the TCP header. icmpChecksum is that of ICMP.
const (
	tcpChecksum  = "@th,528,16"
	icmpChecksum = "@th,416,16"
	// innerProtocol is the inner IPv4 header's field.
	innerProtocol = "@th,312,8"
)

// checksumFaults stand for network cards that compute checksums of
// encapsulated packets, and compute them wrong.
func checksumFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	return []Fault{
		{
			ID: "CSUM-01", Title: "{node} sends TCP with wrong checksums in the tunnel", Breaks: "pings pass, connections hang",
			Case:   "checksum offload of VXLAN (flannel #1279, k3s #2013)",
			Checks: []string{"NM-02", "PF-02"}, Causes: []string{"checksum"}, Needs: needs,
			Break: func(s *Scene) {
				for _, p := range s.plan.PodsOn(s.node.Name) {
					// Else the kernel marks them as good and nobody looks.
					s.on(p.Name, "ethtool -K eth0 tx off", "ethtool -K eth0 tx on")
				}
				s.nft(s.node.Name, "ip", "filter hook postrouting priority 300",
					"oifname "+s.uplink()+" udp dport "+s.tunnelPort()+" "+innerProtocol+" 6 "+tcpChecksum+" set 0xdead")
			},
		},
		{
			ID: "CSUM-02", Title: "{node} sends pings with wrong checksums in the tunnel", Breaks: "pings are not answered, connections work",
			Case:   "checksum offload of VXLAN",
			Checks: []string{"TTL-03", "MTU-01"}, Causes: []string{"checksum"}, Needs: needs,
			Break: func(s *Scene) {
				s.nft(s.node.Name, "ip", "filter hook postrouting priority 300",
					"oifname "+s.uplink()+" udp dport "+s.tunnelPort()+" "+innerProtocol+" 1 "+icmpChecksum+" set 0xdead")
			},
		},
	}
}
