package identify

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/overlab/overlab/topology"
)

// decide makes the plan's network of what was told and what was found.
//
// A backend is recognised where pods are wired as flannel's plugin wires them,
// and the kernel's routes lead where flannel's do. What the configuration asks
// for of that backend is what is judged: a wire that shows something else is for
// a check to find. Where the configuration names another backend than is at
// work, the one at work is judged, and the notes say so.
func (r *Result) decide(l *look, told Told) {
	conf, wrong := configured(told.NetConf)
	r.Recognised = l.bridged && r.Kernel.Type != "" && flannels(&r.Kernel)
	note := func(format string, args ...any) { r.Notes = append(r.Notes, fmt.Sprintf(format, args...)) }
	switch {
	case wrong != nil:
		note("configured: net-conf.json of %s cannot be used: %v", told.NetConfIn, wrong)
	case conf != nil:
		note("configured: %s, in %s", backendSays(&conf.Backend), told.NetConfIn)
	}
	note("in the kernel: %s", &r.Kernel)
	note("on the wire: %s", r.Wire.Says)
	p := r.Plan
	network := p.Network.Network
	switch {
	case !r.Recognised && conf != nil && l.bridged && r.Kernel.Node == "":
		// Nothing leads anywhere: what was asked for is judged, and fails.
		p.Network = *conf
		note("backend: %s, as configured; no node has a route to another's pods", conf.Backend.Type)
	case !r.Recognised:
		p.Network = topology.NetConf{EnableIPv4: true, Network: network, Backend: topology.Backend{Type: cmp.Or(told.Plugin, Unknown), MTU: r.Kernel.PodMTU}}
		p.CNI.Foreign = cmp.Or(told.Plugin, Unknown)
		for i := range p.Nodes {
			p.Nodes[i].Agent.ByHand = true
		}
		note("backend: none of flannel's (%s); checks of a backend do not apply", whyNot(l, &r.Kernel))
	default:
		p.Network = r.recognised(conf, network)
		note("backend: %s", backendSays(&p.Network.Backend))
		if conf != nil && conf.Backend.Type != p.Network.Backend.Type {
			note("WARNING: %s is configured, and %s is at work", conf.Backend.Type, p.Network.Backend.Type)
		}
	}
	if r.Recognised && r.Wire.Type != "" && r.Wire.Type != r.Kernel.Type && !r.Kernel.Direct {
		note("WARNING: the routes are those of %s, and the wire shows %s", r.Kernel.Type, r.Wire.Type)
	}
	if !p.Network.Network.IsValid() {
		p.Network.Network = network
	}
	if p.Network.SubnetLen == 0 && len(p.Nodes) > 0 && p.Nodes[0].PodCIDR.IsValid() {
		p.Network.SubnetLen = p.Nodes[0].PodCIDR.Bits()
	}
}

// flannels reports whether a route's device has the name that flannel gives it.
func flannels(k *Kernel) bool {
	switch k.Type {
	case "vxlan":
		return k.Device == fmt.Sprintf("flannel.%d", k.VNI)
	case "ipip":
		return k.Device == "flannel.ipip"
	case "wireguard":
		return k.Device == "flannel-wg"
	case "udp":
		return k.Device == "flannel0"
	}
	return true // host-gw has none of its own
}

func whyNot(l *look, k *Kernel) string {
	switch {
	case !l.bridged:
		return "pods are not on a bridge " + bridge
	case k.Node == "":
		return "no node has a route to another's pods"
	}
	return fmt.Sprintf("%s leads to another node's pods", k.Device)
}

// recognised is the configuration of the backend that is at work: as it is
// configured where it is, else flannel's defaults with what the kernel has.
func (r *Result) recognised(conf *topology.NetConf, network netip.Prefix) topology.NetConf {
	if conf != nil && (conf.Backend.Type == r.Kernel.Type || conf.Backend.DirectRouting && r.Kernel.Type == "host-gw") {
		return *conf
	}
	backend := map[string]any{"Type": r.Kernel.Type}
	if r.Kernel.Type == "vxlan" {
		backend["VNI"], backend["Port"], backend["DirectRouting"] = r.Kernel.VNI, r.Kernel.Port, r.Kernel.Direct
	}
	text, err := json.Marshal(map[string]any{"Network": network.String(), "Backend": backend})
	if err == nil {
		if made, err := configured(text); err == nil && made != nil {
			return *made
		}
	}
	return topology.NetConf{EnableIPv4: true, Backend: topology.Backend{Type: r.Kernel.Type, VNI: r.Kernel.VNI, Port: r.Kernel.Port}}
}

// configured reads net-conf.json, with flannel's defaults. Overlays of IPv6 are
// judged in labs alone.
func configured(text []byte) (*topology.NetConf, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var keys map[string]any
	if err := json.Unmarshal(text, &keys); err != nil {
		return nil, err
	}
	maps.DeleteFunc(keys, func(k string, _ any) bool { return strings.Contains(k, "IPv6") || k == "EnableIPv4" })
	spec, err := json.Marshal(map[string]any{
		"apiVersion": topology.APIVersion, "kind": topology.Kind, "spec": map[string]any{
			"network": keys,
			// What the keys are held against, and what must not be in their way.
			"nodes":    []any{map[string]any{"name": "node", "role": topology.ControlPlane}},
			"underlay": []any{map[string]any{"name": "lan", "cidr": "192.0.2.0/24"}},
		},
	})
	if err != nil {
		return nil, err
	}
	s, err := topology.Parse("net-conf.json", spec)
	if err != nil {
		return nil, err
	}
	p, err := s.Plan()
	if err != nil {
		return nil, err
	}
	return &p.Network, nil
}

func backendSays(b *topology.Backend) string {
	switch {
	case b.Type == "vxlan" && b.DirectRouting:
		return fmt.Sprintf("vxlan, VNI %d, port %d, DirectRouting", b.VNI, b.Port)
	case b.Type == "vxlan":
		return fmt.Sprintf("vxlan, VNI %d, port %d", b.VNI, b.Port)
	}
	return b.Type
}

// lists says which configuration list of CNI the nodes have, by name. It is the
// first in the order of names that counts (libcni, as kubelet's runtimes call
// it).
func (l *look) lists(ctx context.Context, folders []string) []string {
	said := map[string][]string{}
	for i := range l.plan.Nodes {
		name := l.plan.Nodes[i].Name
		for _, folder := range folders {
			if !strings.HasSuffix(folder, "/net.d") {
				continue
			}
			files, err := l.sessions[name].Files(ctx, folder)
			what := first(folder, files)
			if err != nil {
				what = err.Error()
			}
			said[what] = append(said[what], name)
		}
	}
	var out []string
	for _, what := range slices.Sorted(maps.Keys(said)) {
		nodes := fmt.Sprintf("%d nodes", len(said[what]))
		if len(said) > 1 {
			nodes = strings.Join(said[what], ", ")
		}
		out = append(out, fmt.Sprintf("CNI: %s, on %s", what, nodes))
	}
	return out
}

func first(folder string, files map[string]string) string {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Dir(name) != folder || !strings.HasSuffix(name, ".conflist") && !strings.HasSuffix(name, ".conf") {
			continue
		}
		var list struct {
			Name    string
			Type    string
			Plugins []struct{ Type string }
		}
		if err := json.Unmarshal([]byte(files[name]), &list); err != nil {
			return fmt.Sprintf("%s: %v", name, err)
		}
		types := []string{}
		if list.Type != "" {
			types = append(types, list.Type)
		}
		for _, p := range list.Plugins {
			types = append(types, p.Type)
		}
		return fmt.Sprintf("%s, network %s by %s", name, list.Name, strings.Join(types, ", "))
	}
	return "no configuration in " + folder
}
