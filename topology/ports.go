package topology

import (
	"net/netip"
	"strconv"
	"strings"
)

// Port is a port of a pod's node that leads to the pod, with the keys of the
// CNI convention portMappings.
type Port struct {
	HostPort      int `json:"hostPort"`
	ContainerPort int `json:"containerPort"`
	// Protocol is "tcp", "udp" or "sctp".
	Protocol string `json:"protocol"`
	// HostIP is the one address of the node that answers, invalid for all.
	HostIP netip.Addr `json:"hostIP,omitzero"`
}

// ports settles the host ports of one node's pods. Each leads to one pod.
func (x *expansion) ports(m *machine, pods []*pod) {
	type claim struct {
		Port
		path string
	}
	var claims []claim
	for _, p := range pods {
		for i, s := range p.spec.Ports {
			path := at(p.path+".ports", i)
			port := Port{
				HostPort:      x.between(path+".hostPort", &s.HostPort, 1, 65535, 0, ""),
				ContainerPort: x.between(path+".containerPort", s.ContainerPort, 1, 65535, s.HostPort, ""),
				Protocol:      x.choose(path+".protocol", strings.ToLower(s.Protocol), []string{"tcp", "udp", "sctp"}),
				HostIP:        s.HostIP,
			}
			for _, c := range claims {
				if c.HostPort == port.HostPort && c.Protocol == port.Protocol && port.HostPort != 0 &&
					(c.HostIP == port.HostIP || anyAddress(c.HostIP) || anyAddress(port.HostIP)) {
					x.add(path+".hostPort", "is %s of %s, as is %s; choose another port", strconv.Itoa(port.HostPort)+"/"+port.Protocol, m.name, c.path)
					break
				}
			}
			claims = append(claims, claim{port, path})
			p.Ports = append(p.Ports, port)
		}
	}
	if len(claims) > 0 && x.spec.CNI.Conflist.List != nil && !mapsPorts(x.spec.CNI.Conflist.List) {
		x.add(claims[0].path, "needs a plugin with the capability portMappings, and spec.cni.conflist has none; add {\"type\": \"portmap\", \"capabilities\": {\"portMappings\": true}}")
	}
}

func anyAddress(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }

// mapsPorts tells whether one of a list's plugins is given the port mappings.
func mapsPorts(list map[string]any) bool {
	plugins, _ := list["plugins"].([]any)
	for _, p := range plugins {
		conf, _ := p.(map[string]any)
		capabilities, _ := conf["capabilities"].(map[string]any)
		if on, _ := capabilities["portMappings"].(bool); on {
			return true
		}
	}
	return false
}
