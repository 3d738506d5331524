package bench

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/topology"
)

// bareKernel is a plan built by the fewest messages, with nothing that watches
// over it: the floor that `overlab up` is measured against.
type bareKernel struct {
	sets []*netns.Set
	took time.Duration
}

func (k *bareKernel) close() {
	for _, s := range k.sets {
		_ = s.Close()
	}
}

// inside is a namespace with an rtnetlink socket in it.
type inside struct {
	set  *netns.Set
	conn *rtnl.Conn
}

func (k *bareKernel) namespace() (*inside, error) {
	in := new(inside)
	var err error
	in.set, err = netns.Create(unix.CLONE_NEWNET, func() error {
		for _, conf := range []string{"all", "default"} {
			fd, err := unix.Open("/proc/sys/net/ipv6/conf/"+conf+"/disable_ipv6", unix.O_WRONLY, 0)
			if err != nil {
				continue // no IPv6 in this kernel
			}
			_, err = unix.Write(fd, []byte("1"))
			if err := errors.Join(err, unix.Close(fd)); err != nil {
				return err
			}
		}
		var err error
		in.conn, err = rtnl.Dial()
		return err
	})
	if err != nil {
		return nil, err
	}
	k.sets = append(k.sets, in.set)
	return in, nil
}

// buildBare makes the plan's namespaces, links and mesh entries.
func buildBare(p *topology.Plan) (*bareKernel, error) {
	const lo, nic, bridge, vtep, firstPort = 1, 2, 3, 4, 10
	k := new(bareKernel)
	began := time.Now()
	under, err := k.namespace()
	if err != nil {
		return nil, err
	}
	defer under.conn.Close()
	nodes := make([]*inside, len(p.Nodes))
	for i := range nodes {
		if nodes[i], err = k.namespace(); err != nil {
			return nil, err
		}
		defer nodes[i].conn.Close()
	}
	var b rtnl.Batch
	b.AddBridge(rtnl.Link{Name: "lan", Index: nic, Up: true})
	for i, n := range p.Nodes {
		b.AddVeth(
			rtnl.Link{Name: fmt.Sprintf("p%d", i), Index: firstPort + i, Master: nic, Up: true},
			rtnl.Link{Name: "eth0", Index: nic, MAC: n.Interfaces[0].MAC.HardwareAddr(), NetNS: nodes[i].set.Net})
	}
	if err := under.conn.Do(&b); err != nil {
		return nil, err
	}
	for i := range p.Nodes {
		n := &p.Nodes[i]
		mtu := p.OverlayMTU(n)
		b.SetLink(rtnl.Link{Index: lo, Up: true})
		b.SetLink(rtnl.Link{Index: nic, Up: true})
		b.AddAddr(nic, n.Interfaces[0].Address)
		b.AddVxlan(rtnl.Link{Name: "flannel.1", Index: vtep, MTU: mtu, MAC: vtepMAC(i).HardwareAddr(), Up: true},
			rtnl.Vxlan{VNI: 1, Port: 8472, Local: n.PublicIP(), Dev: nic})
		b.AddBridge(rtnl.Link{Name: "cni0", Index: bridge, MTU: mtu, Up: true})
		b.AddAddr(bridge, n.Gateway())
		for j := range p.Nodes {
			if i == j {
				continue
			}
			peer := &p.Nodes[j]
			gateway := peer.PodCIDR.Addr()
			b.AddNeigh(rtnl.Neigh{Dev: vtep, IP: gateway, MAC: vtepMAC(j).HardwareAddr()})
			b.AddFDB(rtnl.FDB{Dev: vtep, MAC: vtepMAC(j).HardwareAddr(), Dst: peer.PublicIP()})
			b.AddRoute(rtnl.Route{Dst: peer.PodCIDR, Via: gateway, Dev: vtep, Onlink: true})
		}
		pods := p.PodsOn(n.Name)
		for j, pod := range pods {
			in, err := k.namespace()
			if err != nil {
				return nil, err
			}
			defer in.conn.Close()
			b.AddVeth(
				rtnl.Link{Name: pod.HostInterface, Index: firstPort + j, MTU: mtu, Master: bridge, Up: true},
				rtnl.Link{Name: "eth0", Index: nic, MTU: mtu, MAC: pod.MAC.HardwareAddr(), NetNS: in.set.Net})
			if err := nodes[i].conn.Do(&b); err != nil {
				return nil, err
			}
			b.SetLink(rtnl.Link{Index: lo, Up: true})
			b.SetLink(rtnl.Link{Index: nic, Up: true})
			b.AddAddr(nic, pod.Address)
			b.AddRoute(rtnl.Route{Via: n.Gateway().Addr(), Dev: nic})
			if err := in.conn.Do(&b); err != nil {
				return nil, err
			}
		}
		if err := nodes[i].conn.Do(&b); err != nil {
			return nil, err
		}
	}
	k.took = time.Since(began)
	return k, nil
}

func vtepMAC(i int) topology.MAC { return topology.DeriveMAC("bench", fmt.Sprint(i)) }

// settle waits until the kernel has cleaned up the namespaces that were
// dropped before; a lab that comes up meanwhile is slower. The kernel cleans up
// a batch at a time, and unregisters a batch's links long before it is done
// with it: a namespace whose link is seen to go tells that the batches before
// its own are over, and a second one tells it of the first one's.
func settle(b *testing.B) {
	b.Helper()
	for range 2 {
		if err := netns.Thread(dropped); err != nil {
			b.Fatal(err)
		}
	}
}

// dropped makes a namespace with one end of a veth pair in it, drops it, and
// returns when the kernel has taken the pair away.
func dropped() error {
	c, err := rtnl.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	ns, err := netns.Create(unix.CLONE_NEWNET, func() error { return nil })
	if err != nil {
		return err
	}
	const index = 4000
	var batch rtnl.Batch
	batch.AddVeth(rtnl.Link{Name: "settle", Index: index}, rtnl.Link{Name: "settle", NetNS: ns.Net})
	if err := errors.Join(c.Do(&batch), ns.Close()); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		batch.SetLink(rtnl.Link{Index: index})
		err := c.Do(&batch)
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return err
		}
		// The kernel's own pace: a tick of the poll is enough.
		_, _ = unix.Poll(nil, 5)
	}
	return errors.New("the kernel did not clean up within a minute")
}
