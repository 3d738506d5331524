package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/overlab/overlab/topology"
)

// etcd's clock. A lone member needs no patience with its peers: with these it
// serves after about 30 ms, with etcd's defaults after 800 ms.
const (
	etcdTick     = 10 // ms
	etcdElection = 50 // ms
	storeTimeout = 10 * time.Second
)

// store is the lab's etcd, inside the supervisor, on the sockets of the node
// that holds it.
type store struct {
	plan   *topology.Plan
	server *embed.Etcd
	// endStreams ends the clients' watches, for which etcd's end would wait
	// five seconds.
	endStreams context.CancelFunc
}

// startStore opens the store's sockets in the calling thread's namespaces and
// starts it. Clients may connect at once; wait says when it answers.
func startStore(p *topology.Plan) (*store, error) {
	listen := url.URL{Scheme: "http", Host: net.JoinHostPort("0.0.0.0", strconv.Itoa(p.Store.Port))}
	peerPort := 2380
	if p.Store.Port == peerPort {
		peerPort++
	}
	peer := url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(peerPort))}
	advertise, err := url.Parse(endpoint(p))
	if err != nil {
		return nil, fmt.Errorf("start the store on node %s: %w", p.Store.Node, err)
	}

	c := embed.NewConfig()
	c.Name = p.Store.Node
	c.Dir = storeFolder
	c.TickMs, c.ElectionMs = etcdTick, etcdElection
	c.UnsafeNoFsync = true // the data dies with the lab
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{listen}, []url.URL{*advertise}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.Name + "=" + peer.String()
	// The gateway would dial itself from a thread in another namespace.
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	streams, endStreams := context.WithCancel(context.Background())
	c.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainStreamInterceptor(endingWith(streams))}
	server, err := embed.StartEtcd(c)
	if err != nil {
		endStreams()
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("the store cannot listen on node %s, port %d: something else in the lab uses it (set spec.store.port to another): %w", p.Store.Node, p.Store.Port, err)
		}
		return nil, fmt.Errorf("start the store on node %s: %w", p.Store.Node, err)
	}
	return &store{plan: p, server: server, endStreams: endStreams}, nil
}

// stop ends the store as a crash would, with no word to its clients. Its data
// stay where another store finds them.
func (s *store) stop() {
	s.server.Server.HardStop()
	s.endStreams()
	s.server.Close()
}

// endingWith ends every stream of a server when ctx does.
func endingWith(ctx context.Context) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		own, cancel := context.WithCancel(ss.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return handle(srv, endingStream{ss, own})
	}
}

// endingStream is a stream with a context of its own.
type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s endingStream) Context() context.Context { return s.ctx }

// wait returns when the store answers.
func (s *store) wait(ctx context.Context) error {
	select {
	case <-s.server.Server.ReadyNotify():
		return nil
	case err := <-s.server.Err():
		return fmt.Errorf("the store ended: %w", err)
	case <-time.After(storeTimeout):
		return fmt.Errorf("the store does not answer after %s", storeTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fill writes flannel's configuration, and for each node a reservation of its
// subnet: a key without a lease, which the agent whose public address it
// names takes over (flannel's documentation, reservations.md).
func (s *store) fill(ctx context.Context) error {
	client := v3client.New(s.server.Server)
	defer client.Close()
	conf, err := json.Marshal(s.plan.Network)
	if err != nil {
		return fmt.Errorf("encode the network configuration: %w", err)
	}
	prefix := s.plan.Store.Prefix
	puts := []clientv3.Op{clientv3.OpPut(prefix+"/config", string(conf))}
	for i := range s.plan.Nodes {
		n := &s.plan.Nodes[i]
		r := reservation{PublicIP: n.PublicIP().String()}
		if ip := n.PublicIP6(); ip.IsValid() {
			s := ip.String()
			r.PublicIPv6 = &s
		}
		value, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("encode the reservation of node %s: %w", n.Name, err)
		}
		puts = append(puts, clientv3.OpPut(prefix+"/subnets/"+subnetKey(n), string(value)))
	}
	const perTxn = 100 // below etcd's limit of 128 operations
	for len(puts) > 0 {
		n := min(len(puts), perTxn)
		if _, err := client.Txn(ctx).Then(puts[:n]...).Commit(); err != nil {
			return fmt.Errorf("write the network configuration to the store: %w", err)
		}
		puts = puts[n:]
	}
	return nil
}

// reservation is the part of flannel's lease value that a reservation has.
type reservation struct {
	PublicIP   string  `json:"PublicIP"`
	PublicIPv6 *string `json:"PublicIPv6"`
}

// subnetKey is the last part of flannel's key: 10.244.1.0-24, and with two
// families 10.244.1.0-24&fc00::-64.
func subnetKey(n *topology.Node) string {
	key := fmt.Sprintf("%s-%d", n.PodCIDR.Addr(), n.PodCIDR.Bits())
	if n.PodCIDR6.IsValid() {
		key += fmt.Sprintf("&%s-%d", n.PodCIDR6.Addr(), n.PodCIDR6.Bits())
	}
	return key
}

// endpoint is the URL under which agents reach the store.
func endpoint(p *topology.Plan) string {
	return "http://" + net.JoinHostPort(storeAddress(p).String(), strconv.Itoa(p.Store.Port))
}

// storeAddress is the address of the store's node that every node reaches: on
// the agent's interface if all nodes share its segment, else on the first
// segment that all share, else on the agent's interface, by way of routers.
func storeAddress(p *topology.Plan) netip.Addr {
	node := p.Node(p.Store.Node)
	shared := func(nic *topology.Interface) bool {
		return !slices.ContainsFunc(p.Nodes, func(n topology.Node) bool {
			return !slices.ContainsFunc(n.Interfaces, func(i topology.Interface) bool { return i.Segment == nic.Segment })
		})
	}
	if shared(node.Underlay()) {
		return node.Underlay().Address.Addr()
	}
	for i := range node.Interfaces {
		if nic := &node.Interfaces[i]; shared(nic) {
			return nic.Address.Addr()
		}
	}
	return node.Underlay().Address.Addr()
}
