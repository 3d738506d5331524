package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/topology"
)

// viewer looks at a cluster: through Docker, the Kubernetes API, and the nodes'
// processes, which are this machine's.
type viewer struct {
	cluster string
	mu      sync.Mutex
	// pids are the first processes of the nodes' containers.
	pids map[string]int
}

// process returns the first process of a node's container, by the container's
// name.
func (v *viewer) process(ctx context.Context, host string) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if pid, ok := v.pids[host]; ok && isNode(pid, host) {
		return pid, nil
	}
	out, err := docker(ctx, nil, "inspect", "--format", "{{.State.Pid}}", host)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil || pid == 0 {
		return 0, fmt.Errorf("the container %s does not run", host)
	}
	// Docker may be another machine's, and its process somebody else's here.
	if !isNode(pid, host) {
		return 0, fmt.Errorf("process %d of the container %s cannot be seen from here: Docker runs on another machine, or in process namespaces of its own (run this command by hack/with-docker where Docker does)", pid, host)
	}
	if v.pids == nil {
		v.pids = map[string]int{}
	}
	v.pids[host] = pid
	return pid, nil
}

// isNode reports whether a process of this machine is of the node's container.
func isNode(pid int, host string) bool {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/hostname", pid))
	return err == nil && strings.TrimSpace(string(name)) == host
}

// nodes are those that the Kubernetes API knows.
func (v *viewer) nodes(ctx context.Context) ([]corev1.Node, error) {
	out, err := kubectl(ctx, v.master(), nil, "get", "nodes", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list corev1.NodeList
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("read the nodes of the cluster: %w", err)
	}
	return list.Items, nil
}

// master is the container of the control plane.
func (v *viewer) master() string { return v.cluster + "-" + string(topology.ControlPlane) }

// observe returns the plan as the cluster has it.
func (v *viewer) observe(ctx context.Context, spec *topology.Plan, nodes []corev1.Node) (*topology.Plan, error) {
	plan, err := clone(spec)
	if err != nil {
		return nil, err
	}
	on := hosts(plan, v.cluster)
	plan.Network.EnableNFTables = true
	plan.Store = topology.Store{Type: "kubernetes", Node: plan.Nodes[0].Name}
	for i := range plan.Nodes {
		n := &plan.Nodes[i]
		if n.Role == topology.ControlPlane {
			plan.Store.Node = n.Name
		}
		at := slices.IndexFunc(nodes, func(k corev1.Node) bool { return k.Name == on[n.Name] })
		if at < 0 {
			return nil, fmt.Errorf("the cluster has no node %s", on[n.Name])
		}
		if n.PodCIDR, err = netip.ParsePrefix(nodes[at].Spec.PodCIDR); err != nil {
			return nil, fmt.Errorf("the subnet of node %s: %w", on[n.Name], err)
		}
		if err := v.node(ctx, plan, n, on[n.Name]); err != nil {
			return nil, fmt.Errorf("look at node %s: %w", on[n.Name], err)
		}
	}
	return plan, nil
}

func clone(p *topology.Plan) (*topology.Plan, error) {
	b, err := json.Marshal(p)
	c := new(topology.Plan)
	if err == nil {
		err = json.Unmarshal(b, c)
	}
	return c, err
}

// node fills in a node's interface and its pods.
func (v *viewer) node(ctx context.Context, plan *topology.Plan, n *topology.Node, host string) error {
	pid, err := v.process(ctx, host)
	if err != nil {
		return err
	}
	set, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", pid), "", "")
	if err != nil {
		return err
	}
	defer set.Close()
	if err := set.Do(func() error { return underlay(n, &plan.Segments[0]) }); err != nil {
		return err
	}
	n.Agent.Iface, n.Agent.IfaceRegex = "", ""
	n.VtepMAC, n.BridgeMAC = topology.MAC{}, topology.MAC{}
	attached, err := attachments(pid)
	if err != nil {
		return err
	}
	for i := range plan.Pods {
		p := &plan.Pods[i]
		if p.Node != n.Name {
			continue
		}
		a, ok := attached[podNamespace+"/"+p.Name]
		if !ok {
			return fmt.Errorf("the CNI plugin has no record of the pod %s", p.Name)
		}
		if err := a.fill(p); err != nil {
			return fmt.Errorf("the CNI plugin's record of the pod %s: %w", p.Name, err)
		}
	}
	return set.Do(func() error { // the plugin has made the bridge by now, where there are pods
		br, err := netlink.LinkByName("cni0")
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		if err != nil {
			return err
		}
		copy(n.BridgeMAC[:], br.Attrs().HardwareAddr)
		return nil
	})
}

// underlay fills in the interface that Docker gave the node, in the node's
// network namespace.
func underlay(n *topology.Node, segment *topology.Segment) error {
	const name = "eth0"
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) == 0 {
		return fmt.Errorf("%s has no IPv4 address (%w)", name, err)
	}
	i := topology.Interface{Name: name, Segment: segment.Name, MTU: link.Attrs().MTU, Address: prefix(addrs[0].IPNet)}
	copy(i.MAC[:], link.Attrs().HardwareAddr)
	segment.CIDR = i.Address.Masked()
	n.Interfaces, n.Agent.Underlay = []topology.Interface{i}, name
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
	if err != nil {
		return fmt.Errorf("read the default route: %w", err)
	}
	n.Routes = nil
	for _, r := range routes {
		if via, ok := netip.AddrFromSlice(r.Gw); ok {
			n.Routes = append(n.Routes, topology.Route{Via: via.Unmap(), Dev: name})
		}
	}
	return nil
}

func prefix(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}

// attachment is what libcni keeps of an ADD, under /var/lib/cni/results
// (libcni/api.go, cachedInfo): the keys that matter here.
type attachment struct {
	ContainerID string      `json:"containerId"`
	CniArgs     [][2]string `json:"cniArgs"`
	Result      struct {
		Interfaces []struct {
			Name, Mac, Sandbox string
		} `json:"interfaces"`
		IPs []struct {
			Address netip.Prefix `json:"address"`
		} `json:"ips"`
	} `json:"result"`
}

// attachments reads the records of a node's pods, by namespace and name.
func attachments(pid int) (map[string]attachment, error) {
	dir := fmt.Sprintf("/proc/%d/root/var/lib/cni/results", pid)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // no pod has come here yet
	}
	if err != nil {
		return nil, err
	}
	out := map[string]attachment{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the pod has just gone
		}
		var a attachment
		if err == nil {
			err = json.Unmarshal(b, &a)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", e.Name(), err)
		}
		namespace, name := "", ""
		for _, arg := range a.CniArgs {
			switch arg[0] {
			case "K8S_POD_NAMESPACE":
				namespace = arg[1]
			case "K8S_POD_NAME":
				name = arg[1]
			}
		}
		// Loopback has a record of its own, without a sandbox. Of a pod from
		// before a restart of its node, the record is left.
		if a.sandbox() == "" {
			continue
		}
		fd, err := openInside(pid, a.sandbox())
		if err != nil {
			continue
		}
		out[namespace+"/"+name] = a
		if err := unix.Close(fd); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sandbox is the path of the pod's network namespace on the node.
func (a *attachment) sandbox() string {
	for _, i := range a.Result.Interfaces {
		if i.Sandbox != "" && i.Name != "lo" {
			return i.Sandbox
		}
	}
	return ""
}

// fill fills in what the plugin gave a pod.
func (a *attachment) fill(p *topology.Pod) error {
	if len(a.Result.IPs) == 0 {
		return errors.New("there is no address in it")
	}
	p.Address, p.ContainerID, p.SandboxID = a.Result.IPs[0].Address, a.ContainerID, a.ContainerID
	for _, i := range a.Result.Interfaces {
		switch {
		case i.Sandbox != "":
			mac, err := net.ParseMAC(i.Mac)
			if err != nil {
				return err
			}
			copy(p.MAC[:], mac)
		case strings.HasPrefix(i.Name, "veth"):
			p.HostInterface = i.Name
		}
	}
	return nil
}

// awaitRoutes waits until every node has a route to every other's subnet.
func (v *viewer) awaitRoutes(ctx context.Context, plan *topology.Plan) error {
	for {
		missing, err := v.missingRoutes(ctx, plan)
		if err != nil || len(missing) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), strings.Join(missing, "; "))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (v *viewer) missingRoutes(ctx context.Context, plan *topology.Plan) ([]string, error) {
	var missing []string
	on := hosts(plan, v.cluster)
	for i := range plan.Nodes {
		n := &plan.Nodes[i]
		pid, err := v.process(ctx, on[n.Name])
		if err != nil {
			return nil, err
		}
		set, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", pid), "", "")
		if err != nil {
			return nil, err
		}
		have := map[netip.Prefix]bool{}
		err = set.Do(func() error {
			routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
			for _, r := range routes {
				if r.Dst != nil {
					have[prefix(r.Dst)] = true
				}
			}
			return err
		})
		if err := errors.Join(err, set.Close()); err != nil {
			return nil, fmt.Errorf("read the routes of %s: %w", n.Name, err)
		}
		for j := range plan.Nodes {
			if peer := &plan.Nodes[j]; j != i && !have[peer.PodCIDR] {
				missing = append(missing, n.Name+" has none to "+peer.PodCIDR.String())
			}
		}
	}
	return missing, nil
}
