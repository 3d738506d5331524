package labtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/overlab/overlab/topology"
)

// StartStore runs etcd in the namespace of the plan's store and puts every
// node's lease into it, in flannel's format.
func (l *Lab) StartStore(ctx context.Context) error {
	node := l.plan.Node(l.plan.Store.Node)
	ns := l.spaces[node.Name]
	dir, err := os.MkdirTemp("", "labtest-etcd-")
	if err != nil {
		return err
	}
	l.closers = append(l.closers, func() error { return os.RemoveAll(dir) })
	endpoint := fmt.Sprintf("http://%s:%d", node.Underlay().Address.Addr(), l.plan.Store.Port)
	cfg, err := storeConfig(dir, endpoint)
	if err != nil {
		return err
	}
	var server *embed.Etcd
	if err := ns.Do(func() error { server, err = embed.StartEtcd(cfg); return err }); err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	l.closers = append([]func() error{func() error { server.Close(); return nil }}, l.closers...)
	select {
	case <-server.Server.ReadyNotify():
	case <-ctx.Done():
		return fmt.Errorf("start etcd: %w", context.Cause(ctx))
	}
	for i := range l.plan.Nodes {
		if err := l.PutLease(ctx, l.plan.Nodes[i].Name, l.plan.Nodes[i].VtepMAC); err != nil {
			return err
		}
	}
	return nil
}

func storeConfig(dir, endpoint string) (*embed.Config, error) {
	client, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 10, 50
	cfg.UnsafeNoFsync = true
	cfg.EnableGRPCGateway = false
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	return cfg, nil
}

// PutLease writes a node's lease with the given VTEP MAC.
func (l *Lab) PutLease(ctx context.Context, node string, mac topology.MAC) error {
	n := l.plan.Node(node)
	fields := map[string]any{
		"PublicIP": n.PublicIP(), "PublicIPv6": nil,
		"BackendData": map[string]any{"VNI": l.plan.Network.Backend.VNI, "VtepMAC": mac},
	}
	if b := l.plan.Network.Backend.Type; b != "udp" && b != "alloc" { // whose leases name none
		fields["BackendType"] = b
	}
	if l.plan.Network.EnableIPv6 {
		fields["PublicIPv6"] = n.PublicIP6()
		fields["BackendV6Data"] = map[string]any{"VNI": l.plan.Network.Backend.VNI, "VtepMAC": vtepMAC(l.plan.Over6(), n)}
	}
	value, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	return l.store(ctx, func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Put(ctx, l.leaseKey(n), string(value))
		return err
	})
}

// DeleteLease takes a node's lease from the store.
func (l *Lab) DeleteLease(ctx context.Context, node string) error {
	return l.store(ctx, func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Delete(ctx, l.leaseKey(l.plan.Node(node)))
		return err
	})
}

func (l *Lab) leaseKey(n *topology.Node) string {
	key := n.PodCIDR.String()
	if n.PodCIDR6.IsValid() {
		key += "&" + n.PodCIDR6.String()
	}
	return l.plan.Store.Prefix + "/subnets/" + strings.ReplaceAll(key, "/", "-")
}

func (l *Lab) store(ctx context.Context, do func(context.Context, *clientv3.Client) error) error {
	node := l.plan.Node(l.plan.Store.Node)
	ns := l.spaces[node.Name]
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{fmt.Sprintf("http://%s:%d", node.Underlay().Address.Addr(), l.plan.Store.Port)},
		Logger:    zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return ns.Dial(ctx, "tcp", addr)
		})},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return errors.Join(do(ctx, c), c.Close())
}
