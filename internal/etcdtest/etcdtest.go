// Package etcdtest runs etcd inside a test: in the test's own namespace, with
// ticks so short that it is ready in some 30 ms, and without waiting for disks.
package etcdtest

import (
	"net/url"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
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

	dir   string
	certs *Certs
	// strict asks clients for a certificate.
	strict bool
	etcd   *embed.Etcd
}

// Start runs an etcd that serves clients at address ("host:port") and ends
// with the test.
func Start(t testing.TB, address string) *Server {
	t.Helper()
	return start(t, &Server{Endpoint: "http://" + address})
}

// StartTLS is Start with TLS: the server has the certificate of certs and, if
// strict, serves only clients that have one of the same authority.
func StartTLS(t testing.TB, address string, certs Certs, strict bool) *Server {
	t.Helper()
	return start(t, &Server{Endpoint: "https://" + address, certs: &certs, strict: strict})
}

func start(t testing.TB, s *Server) *Server {
	t.Helper()
	s.dir = t.TempDir()
	s.Restart(t)
	s.connect(t, "", "")
	t.Cleanup(func() {
		if err := s.Client.Close(); err != nil {
			t.Error(err)
		}
		s.Stop()
	})
	return s
}

// connect makes Client, in place of the one that there is.
func (s *Server) connect(t testing.TB, user, password string) {
	t.Helper()
	c := clientv3.Config{Endpoints: []string{s.Endpoint}, Username: user, Password: password, Logger: zap.NewNop()}
	if s.certs != nil {
		tls, err := transport.TLSInfo{CertFile: s.certs.ClientCert, KeyFile: s.certs.ClientKey, TrustedCAFile: s.certs.CA}.ClientConfig()
		if err != nil {
			t.Fatal(err)
		}
		c.TLS = tls
	}
	client, err := clientv3.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if s.Client != nil {
		if err := s.Client.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s.Client = client
}

// RequireUser makes the server refuse everybody but root, as whom Client is
// connected from then on, and the user, who may read and write the keys under
// the prefix.
func (s *Server) RequireUser(t testing.TB, user, password, prefix string) {
	t.Helper()
	ctx := t.Context()
	_, err := s.Client.RoleAdd(ctx, user)
	steps := []func() error{
		func() error {
			_, err := s.Client.RoleGrantPermission(ctx, user, prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := s.Client.UserAdd(ctx, "root", password); return err },
		func() error { _, err := s.Client.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := s.Client.UserAdd(ctx, user, password); return err },
		func() error { _, err := s.Client.UserGrantRole(ctx, user, user); return err },
		func() error { _, err := s.Client.AuthEnable(ctx); return err },
	}
	for _, step := range steps {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	s.connect(t, "root", password)
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
	if s.certs != nil {
		c.ClientTLSInfo = transport.TLSInfo{CertFile: s.certs.ServerCert, KeyFile: s.certs.ServerKey}
		if s.strict { // an authority alone already asks clients for theirs
			c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = s.certs.CA, true
		}
	}
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
