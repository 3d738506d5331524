// Package etcdtest runs etcd inside a test: in the test's own namespace, with
// ticks so short that it is ready in some 30 ms, and without waiting for disks.
package etcdtest

import (
	"net/url"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// startTimeout is generous: the machine may be busy with other tests.
const startTimeout = 20 * time.Second

// Server is a running etcd.
type Server struct {
	// Endpoint is its client URL.
	Endpoint string
	// Client is connected to it.
	Client *clientv3.Client

	dir  string
	etcd *embed.Etcd
}

// Start runs an etcd that serves clients at address ("host:port") and ends
// with the test.
func Start(t testing.TB, address string) *Server {
	t.Helper()
	s := &Server{Endpoint: "http://" + address, dir: t.TempDir()}
	s.Restart(t)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	s.Client = client
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		s.Stop()
	})
	return s
}

// Stop ends the server and keeps its data.
func (s *Server) Stop() {
	if s.etcd != nil {
		s.etcd.Close()
		s.etcd = nil
	}
}

// Restart runs the server with the data that it has.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	client, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	peer := &url.URL{Scheme: "unix", Host: "peer-" + client.Port()}
	c := embed.NewConfig()
	c.Dir = s.dir
	c.TickMs, c.ElectionMs = 10, 50
	c.UnsafeNoFsync, c.EnableGRPCGateway = true, false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	if s.etcd, err = embed.StartEtcd(c); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
	case <-time.After(startTimeout):
		t.Fatal("etcd is not ready")
	}
}
