package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/vishvananda/netlink"
)

// Request is one verb for one interface of one container, as the CNI
// specification's environment gives it.
type Request struct {
	ContainerID string
	// Netns is the path of the pod's network namespace.
	Netns string
	// IfName is the interface's name in the pod.
	IfName string
	// Args are CNI_ARGS: "KEY=value;KEY=value". IP, MAC and HostInterface
	// are understood, and IgnoreUnknown=1 lets others pass.
	Args   string
	Config *Config
}

// validate refuses what could not be a file's or an interface's name.
func (r Request) validate() error {
	if err := utils.ValidateContainerID(r.ContainerID); err != nil {
		return err
	}
	if err := utils.ValidateInterfaceName(r.IfName); err != nil {
		return err
	}
	if r.Config == nil {
		return coded(types.ErrInvalidNetworkConfig, "container "+r.ContainerID, errors.New("the request has no network configuration"))
	}
	if err := utils.ValidateNetworkName(r.Config.Name); err != nil {
		return err
	}
	return nil
}

// Add wires one pod. An ADD that fails leaves nothing behind. Its errors are
// *types.Error with a code of the CNI specification, or ErrAddress,
// ErrHostPort or ErrKernel.
func Add(ctx context.Context, r Request) (*types100.Result, error) {
	results, err := AddAll(ctx, []Request{r})
	if err != nil {
		return nil, err
	}
	return results[0], nil
}

// AddAll wires many pods of one node, all of one *Config, as one Add each
// would, but with one batch for all their veth pairs. It wires all, or on
// error none. The results are in the order of the requests.
func AddAll(ctx context.Context, requests []Request) ([]*types100.Result, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	conf := requests[0].Config
	if conf.AwaitSubnet > 0 {
		if err := awaitSubnetEnv(ctx, conf.subnetFile(), time.Duration(conf.AwaitSubnet)*time.Second); err != nil {
			return nil, noSubnet(err)
		}
	}
	n, pods, err := prepare(requests)
	defer closePods(pods)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(conf.dataDir(), 0o700); err != nil {
		return nil, coded(types.ErrIOFailure, "make the directory of the records", err)
	}
	unlock, err := lockNode(ctx, conf.dataDir())
	if err != nil {
		return nil, coded(types.ErrTryAgainLater, "network "+conf.Name, err)
	}
	defer unlock()
	m, err := openIPAM(n.ipam, conf.LegacyRecords)
	if err != nil {
		return nil, coded(types.ErrIOFailure, "open the reserved addresses", err)
	}
	defer func() { _ = m.close() }()
	k, err := openKernel()
	if err != nil {
		return nil, coded(ErrKernel, "network "+conf.Name, err)
	}
	defer k.close()

	a := &adding{conf: conf, network: n, ipam: m, kernel: k}
	if err := a.run(ctx, pods); err != nil {
		if undone := a.undo.run(); undone != nil {
			err = coded(types.ErrInternal, err.Error(), fmt.Errorf("besides, not all could be undone: %w", undone))
		}
		return nil, err
	}
	return a.results(pods), nil
}

// prepare reads the configuration and opens the pods' namespaces. The pods
// are to be closed even on error.
func prepare(requests []Request) (*network, []*pod, error) {
	for _, r := range requests {
		if err := r.validate(); err != nil {
			return nil, nil, err
		}
		if r.Config != requests[0].Config {
			return nil, nil, coded(types.ErrInvalidNetworkConfig, "wire several pods", errors.New("they must share one *Config"))
		}
	}
	n, err := requests[0].Config.resolve()
	if err != nil {
		return nil, nil, err
	}
	var pods []*pod
	for _, r := range requests {
		p := &pod{Request: r}
		if p.wishes, err = n.wishes(r.Args); err != nil {
			return nil, pods, err
		}
		if p.ns, err = openPod(r.Netns); err != nil {
			return nil, pods, coded(types.ErrInvalidNetNS, "container "+r.ContainerID, err)
		}
		pods = append(pods, p)
	}
	return n, pods, nil
}

func closePods(pods []*pod) {
	for _, p := range pods {
		_ = p.ns.Close()
	}
}

// adding is one AddAll at work.
type adding struct {
	conf    *Config
	network *network
	ipam    *ipam
	kernel  *kernel
	bridge  *netlink.LinkAttrs
	undo    undo
}

// run takes the steps of an ADD, those on disk first: a DEL can then undo
// even what a killed ADD has made.
func (a *adding) run(ctx context.Context, pods []*pod) error {
	mac, err := a.bridgeMAC()
	if err != nil {
		return err
	}
	if err := a.reserve(pods); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return coded(types.ErrTryAgainLater, "network "+a.conf.Name, context.Cause(ctx))
	}
	if err := a.wire(ctx, mac, pods); err != nil {
		return coded(ErrKernel, "network "+a.conf.Name, err)
	}
	if a.network.bridge.IPMasq {
		if err := a.masquerade(pods); err != nil {
			return err
		}
	}
	return a.mapPorts(pods)
}

func (a *adding) bridgeMAC() (net.HardwareAddr, error) {
	if a.conf.BridgeMAC == "" {
		return nil, nil
	}
	mac, err := parseMAC(a.conf.BridgeMAC)
	if err != nil {
		return nil, coded(types.ErrInvalidNetworkConfig, "bridgeMAC", err)
	}
	return mac, nil
}

// reserve writes the pods' records and reserves their addresses.
func (a *adding) reserve(pods []*pod) error {
	taken, err := reservations(a.ipam.store.dir)
	if err != nil {
		return coded(types.ErrIOFailure, "read the reserved addresses", err)
	}
	for _, p := range pods {
		for _, r := range taken {
			if r.of(p.ContainerID, p.IfName) {
				return coded(ErrAddress, "container "+p.ContainerID,
					fmt.Errorf("%s has %s already: an ADD must not be repeated without a DEL", p.IfName, r.ip))
			}
		}
		if err := a.writeRecord(p.ContainerID); err != nil {
			return coded(types.ErrIOFailure, "write the record of container "+p.ContainerID, err)
		}
		if p.ips, err = a.ipam.reserve(p.ContainerID, p.IfName, p.wishes.ips); err != nil {
			return coded(ErrAddress, "reserve an address for container "+p.ContainerID, err)
		}
		a.undo.push(func() error { return a.ipam.release(p.ContainerID, p.IfName) })
		for _, ip := range p.ips {
			taken = append(taken, reservation{ip.address.Addr(), p.ContainerID, p.IfName})
		}
	}
	return nil
}

// writeRecord keeps the delegate's configuration for the container's DEL. A
// container with several interfaces has one record, as flannel's has.
func (a *adding) writeRecord(id string) error {
	path := filepath.Join(a.conf.dataDir(), id)
	before, err := os.ReadFile(path)
	switch {
	case err == nil:
		a.undo.push(func() error { return os.WriteFile(path, before, 0o600) })
	case errors.Is(err, os.ErrNotExist):
		a.undo.push(func() error { return removeFile(path) })
	default:
		return err
	}
	return os.WriteFile(path, a.network.record, 0o600)
}

// removeFile removes a file, which may be gone already.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// wire makes the links, addresses and routes.
func (a *adding) wire(ctx context.Context, mac net.HardwareAddr, pods []*pod) (err error) {
	if a.bridge, err = a.kernel.ensureBridge(a.network, mac, &a.undo); err != nil {
		return err
	}
	if err := a.kernel.addVeths(a.network, a.bridge.Index, pods, &a.undo); err != nil {
		return err
	}
	if err := wireInside(a.network, pods); err != nil {
		return err
	}
	if err := a.kernel.await(ctx, pods); err != nil {
		return err
	}
	// A bridge whose MAC nobody has pinned takes one of its ports'.
	br, err := a.kernel.link(a.bridge.Name)
	if err == nil && br == nil {
		err = fmt.Errorf("link %s vanished", a.bridge.Name)
	}
	if err != nil {
		return err
	}
	a.bridge = br.Attrs()
	return nil
}

func (a *adding) results(pods []*pod) []*types100.Result {
	var results []*types100.Result
	for _, p := range pods {
		results = append(results, a.result(p))
	}
	return results
}

// result tells what the kernel has, in the order of the bridge plugin: the
// bridge, the node's end, the pod's.
func (a *adding) result(p *pod) *types100.Result {
	n := a.network
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: a.bridge.Name, Mac: a.bridge.HardwareAddr.String(), Mtu: a.bridge.MTU},
			{Name: p.host.Name, Mac: p.host.HardwareAddr.String(), Mtu: p.host.MTU},
			{Name: p.inside.Name, Mac: p.inside.HardwareAddr.String(), Mtu: p.inside.MTU, Sandbox: p.Netns},
		},
		DNS: n.bridge.DNS,
	}
	for _, ip := range p.ips {
		r.IPs = append(r.IPs, &types100.IPConfig{
			Interface: types100.Int(2),
			Address:   ipNet(ip.address),
			Gateway:   ip.gateway.AsSlice(),
		})
	}
	for _, rt := range n.routes(p.ips) {
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(rt.dst), GW: rt.via.AsSlice()})
	}
	return r
}
