// Package lease reads the leases that agents keep, in flannel's format. In the
// Kubernetes API they are annotations of nodes (kubernetes.go). In etcd each is
// a key <prefix>/subnets/10.244.1.0-24 (dual stack:
// 10.244.1.0-24&fc00:..::-64) whose value is JSON. It is the harness's own
// reader, which shares nothing with the agent that it judges.
package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/overlab/overlab/topology"
)

// Lease is one node's lease.
type Lease struct {
	// Subnet and PublicIP are unset for a node with IPv6 alone, Subnet6 and
	// PublicIPv6 for one with IPv4 alone.
	Subnet, Subnet6      netip.Prefix
	PublicIP, PublicIPv6 netip.Addr
	// BackendType is the lower-case name, as "vxlan".
	BackendType string
	// VNI and VtepMAC are the vxlan backend's data, zero for others; VtepMAC6
	// is that of its IPv6 device.
	VNI               int
	VtepMAC, VtepMAC6 topology.MAC
	// PublicKey, base64, and Port are the wireguard backend's data. Nonce and
	// Check, base64, are those of overlabd's ipsec: see docs/backends.md.
	PublicKey    string
	Port         int
	Nonce, Check string
	// Key is the key's last part.
	Key string
}

// Over6 returns the lease of a node of both families as IPv6 sees it: what is
// IPv6's stands in IPv4's place, as in topology's Plan.Over6.
func (l Lease) Over6() Lease {
	l.Subnet, l.PublicIP, l.VtepMAC = l.Subnet6, l.PublicIPv6, l.VtepMAC6
	return l
}

// value is the lease's JSON (flannel's LeaseAttrs).
type value struct {
	PublicIP, PublicIPv6       netip.Addr
	BackendType                string
	BackendData, BackendV6Data json.RawMessage
}

// ErrNotLocal says that the store's node cannot be entered from here.
var ErrNotLocal = errors.New("the store's node is not on this machine")

// Malformed says that an entry of the store is no lease.
type Malformed struct {
	Key string
	Err error
}

func (m *Malformed) Error() string { return fmt.Sprintf("key %s: %v", m.Key, m.Err) }

// Unwrap returns why.
func (m *Malformed) Unwrap() error { return m.Err }

// Contents are what a store holds where leases are: keys of etcd, or nodes of
// Kubernetes that have an agent.
type Contents struct {
	// Prefix is before each key.
	Prefix  string  `json:"prefix,omitempty"`
	Entries []Entry `json:"entries,omitempty"`
	Nodes   []node  `json:"nodes,omitempty"`
}

// List reads all leases of a lab from its store. The error joins one Malformed
// for each entry that is no lease, and the other leases are returned even so.
func List(ctx context.Context, lab topology.Lab) ([]Lease, error) {
	c, err := Read(ctx, lab)
	if err != nil {
		return nil, err
	}
	return c.Leases()
}

// Read reads a lab's store: its etcd, dialled from inside the node that holds
// it, or the API of its cluster.
func Read(ctx context.Context, lab topology.Lab) (*Contents, error) {
	if out, there, err := nodesOf(ctx, lab); there {
		var nodes []node
		if err == nil {
			nodes, err = withAgent(out)
		}
		if err != nil {
			err = fmt.Errorf("read leases: %w", err)
		}
		return &Contents{Nodes: nodes}, err
	}
	entries, err := Entries(ctx, lab)
	return &Contents{Prefix: lab.Plan().Store.Prefix + "/subnets/", Entries: entries}, err
}

// Leases are those of the contents. The error is as List's.
func (c *Contents) Leases() ([]Lease, error) {
	leases := []Lease{}
	var errs []error
	for _, e := range c.Entries {
		l, err := parse(e.Key, []byte(e.Value))
		if err != nil {
			errs = append(errs, &Malformed{Key: c.Prefix + e.Key, Err: err})
			continue
		}
		leases = append(leases, l)
	}
	for i := range c.Nodes {
		l, err := c.Nodes[i].lease()
		if err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", c.Nodes[i].Metadata.Name, err))
			continue
		}
		leases = append(leases, l)
	}
	return leases, errors.Join(errs...)
}

// Put writes a lease that never expires, as a node that is programmed by hand
// would: its Key names it, with the backend's data for vxlan.
func Put(ctx context.Context, lab topology.Lab, l Lease) error {
	return PutAll(ctx, lab, []Lease{l}, func(int) {})
}

// PutAll writes one such lease after the other; began is told the number of
// each before it is written.
func PutAll(ctx context.Context, lab topology.Lab, leases []Lease, began func(int)) error {
	if c, ok := cluster(lab); ok {
		for i, l := range leases {
			began(i)
			if err := putNode(ctx, c, l); err != nil {
				return fmt.Errorf("write lease %s: %w", l.Key, err)
			}
		}
		return nil
	}
	keys := make([]string, len(leases))
	for i, l := range leases {
		keys[i] = l.Key
	}
	return change(lab, naming("write", keys), func(c *clientv3.Client, prefix string) error {
		for i, l := range leases {
			v := map[string]any{"PublicIP": l.PublicIP, "PublicIPv6": nil, "BackendType": l.BackendType}
			if l.BackendType == "vxlan" {
				v["BackendData"] = map[string]any{"VNI": l.VNI, "VtepMAC": l.VtepMAC}
			}
			if l.Subnet6.IsValid() {
				v["PublicIPv6"] = l.PublicIPv6
				if l.BackendType == "vxlan" {
					v["BackendV6Data"] = map[string]any{"VNI": l.VNI, "VtepMAC": l.VtepMAC6}
				}
			}
			data, err := json.Marshal(v)
			if err != nil {
				return err
			}
			began(i)
			if _, err := c.Put(ctx, prefix+l.Key, string(data)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Delete takes leases from the store; that there is none is no error.
func Delete(ctx context.Context, lab topology.Lab, keys ...string) error {
	if c, ok := cluster(lab); ok {
		for _, key := range keys {
			if err := deleteNode(ctx, c, key); err != nil {
				return fmt.Errorf("delete lease %s: %w", key, err)
			}
		}
		return nil
	}
	return change(lab, naming("delete", keys), func(c *clientv3.Client, prefix string) error {
		for _, key := range keys {
			if _, err := c.Delete(ctx, prefix+key); err != nil {
				return err
			}
		}
		return nil
	})
}

// naming says what is done to the leases, as "write lease 10.244.9.0-24".
func naming(verb string, keys []string) string {
	if len(keys) == 1 {
		return verb + " lease " + keys[0]
	}
	return fmt.Sprintf("%s %d leases", verb, len(keys))
}

func change(lab topology.Lab, what string, do func(c *clientv3.Client, prefix string) error) error {
	plan := lab.Plan()
	if plan.Store.Type != "etcd" {
		return fmt.Errorf("%s: the store is %q, not etcd", what, plan.Store.Type)
	}
	c, err := connect(lab, plan)
	if err == nil {
		err = errors.Join(do(c, plan.Store.Prefix+"/subnets/"), c.Close())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Key is the last part of the key of an IPv4 subnet's lease.
func Key(subnet netip.Prefix) string { return strings.Replace(subnet.String(), "/", "-", 1) }

// DualKey is that of the lease of a subnet of each family.
func DualKey(v4, v6 netip.Prefix) string { return Key(v4) + "&" + Key(v6) }

func connect(lab topology.Lab, plan *topology.Plan) (*clientv3.Client, error) {
	node := plan.Node(plan.Store.Node)
	if node == nil {
		return nil, fmt.Errorf("the plan has no node %q for the store", plan.Store.Node)
	}
	ns, err := lab.Namespace(node.Name)
	if err != nil {
		return nil, err
	}
	local, ok := ns.(topology.Local)
	if !ok {
		return nil, ErrNotLocal
	}
	dial := func(ctx context.Context, address string) (net.Conn, error) { return local.Dial(ctx, "tcp", address) }
	endpoint := netip.AddrPortFrom(node.Underlay().Address.Addr(), uint16(plan.Store.Port))
	return clientv3.New(clientv3.Config{
		Endpoints:   []string{"http://" + endpoint.String()},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dial)},
		Logger:      zap.NewNop(),
	})
}

func parse(key string, data []byte) (Lease, error) {
	v4, v6, dual := strings.Cut(key, "&")
	subnet, err := netip.ParsePrefix(strings.Replace(v4, "-", "/", 1))
	if err != nil {
		return Lease{}, fmt.Errorf("no subnet: %w", err)
	}
	var subnet6 netip.Prefix
	if dual {
		if subnet6, err = netip.ParsePrefix(strings.Replace(v6, "-", "/", 1)); err != nil {
			return Lease{}, fmt.Errorf("no IPv6 subnet: %w", err)
		}
	}
	var v value
	if err := json.Unmarshal(data, &v); err != nil {
		return Lease{}, fmt.Errorf("value %q: %w", data, err)
	}
	l := Lease{Subnet: subnet, Subnet6: subnet6, PublicIP: v.PublicIP, PublicIPv6: v.PublicIPv6, BackendType: v.BackendType, Key: key}
	if subnet.Bits() == 0 { // flannel's "none"
		l.Subnet, l.PublicIP = netip.Prefix{}, netip.Addr{}
	}
	switch v.BackendType {
	case "wireguard", "ipsec":
		return l, l.keys(v.BackendData)
	case "vxlan":
	default:
		return l, nil
	}
	if l.Subnet.IsValid() {
		if l.VNI, l.VtepMAC, err = vtep(v.BackendData); err != nil {
			return Lease{}, err
		}
	}
	if l.Subnet6.IsValid() {
		if l.VNI, l.VtepMAC6, err = vtep(v.BackendV6Data); err != nil {
			return Lease{}, err
		}
	}
	return l, nil
}

// keys reads what the backends say that encrypt. A lease of another program's
// ipsec has no data.
func (l *Lease) keys(data json.RawMessage) error {
	if len(data) == 0 {
		return nil
	}
	var d struct {
		PublicKey    string
		Port         int
		Nonce, Check string
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return fmt.Errorf("backend data %q: %w", data, err)
	}
	l.PublicKey, l.Port, l.Nonce, l.Check = d.PublicKey, d.Port, d.Nonce, d.Check
	return nil
}

// vtep reads what the vxlan backend says of one family.
func vtep(data json.RawMessage) (int, topology.MAC, error) {
	var vx struct {
		VNI     int
		VtepMAC topology.MAC
	}
	if err := json.Unmarshal(data, &vx); err != nil {
		return 0, topology.MAC{}, fmt.Errorf("backend data %q: %w", data, err)
	}
	return vx.VNI, vx.VtepMAC, nil
}
