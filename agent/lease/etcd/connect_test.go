package etcd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/internal/etcdtest"
	"github.com/overlab/overlab/internal/nstest"
)

const address = "127.0.0.1:2379"

// openWith opens a store with a Config of one's own.
func (f *fixture) openWith(c Config) *Store {
	f.t.Helper()
	c.Prefix, c.Log = prefix, slog.New(slog.NewTextHandler(f.log, nil))
	s, err := Open(c)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = s.Close() })
	return s
}

// works has a store do all that an agent asks of it.
func (f *fixture) works(s *Store) {
	f.t.Helper()
	f.put("/config", wide)
	if _, err := s.NetConf(f.t.Context()); err != nil {
		f.t.Error(err)
	}
	g := f.acquire(s, claim(1, wide))
	if _, err := s.Renew(f.t.Context(), g.Lease); err != nil {
		f.t.Error(err)
	}
	f.watch(s)("the lease", has(1))
}

// refused has a store whose server wants something else, and expects to be told
// why. To check a password takes a busy machine its time.
func (f *fixture) refused(s *Store, want string) {
	f.t.Helper()
	var err error
	for limit := 500 * time.Millisecond; limit < 30*time.Second; limit *= 2 {
		ctx, cancel := context.WithTimeout(f.t.Context(), limit)
		_, err = s.NetConf(ctx)
		cancel()
		if err == nil {
			f.t.Fatal("the server let it in")
		}
		if strings.Contains(err.Error(), want) {
			return
		}
	}
	f.t.Errorf("%v does not say %q", err, want)
}

func TestTLS(t *testing.T) {
	nstest.Require(t)
	certs, others := etcdtest.NewCerts(t, "127.0.0.1"), etcdtest.NewCerts(t, "127.0.0.1")
	f := &fixture{Server: etcdtest.StartTLS(t, address, certs, true), t: t, log: &syncBuffer{}}
	f.works(f.openWith(Config{Endpoints: []string{f.Endpoint}, CAFile: certs.CA, CertFile: certs.ClientCert, KeyFile: certs.ClientKey}))
	for name, tt := range map[string]struct {
		config Config
		want   string
	}{
		"an authority alone": {Config{CAFile: certs.CA}, "certificate required"},
		"another's client":   {Config{CAFile: certs.CA, CertFile: others.ClientCert, KeyFile: others.ClientKey}, "unknown certificate authority"},
		"another authority":  {Config{CAFile: others.CA, CertFile: certs.ClientCert, KeyFile: certs.ClientKey}, "certificate signed by unknown authority"},
		"the system's":       {Config{CertFile: certs.ClientCert, KeyFile: certs.ClientKey}, "certificate signed by unknown authority"},
	} {
		tt.config.Endpoints = []string{f.Endpoint}
		t.Log(name)
		f.refused(f.openWith(tt.config), tt.want)
	}
}

func TestTLSWithoutClientCertificate(t *testing.T) {
	nstest.Require(t)
	certs := etcdtest.NewCerts(t, "127.0.0.1")
	f := &fixture{Server: etcdtest.StartTLS(t, address, certs, false), t: t, log: &syncBuffer{}}
	f.works(f.openWith(Config{Endpoints: []string{f.Endpoint}, CAFile: certs.CA}))
	f.openWith(Config{Endpoints: []string{"http://" + address}, CAFile: certs.CA})
	if !strings.Contains(f.log.String(), "without TLS") {
		t.Error("the log does not say that http goes without TLS")
	}
}

func TestOpenRefuses(t *testing.T) {
	for want, c := range map[string]Config{
		"/c.pem has no key":           {CertFile: "/c.pem"},
		"/k.pem has no certificate":   {KeyFile: "/k.pem"},
		"go together":                 {Username: "overlabd"},
		"certificate authority: open": {CAFile: "/nowhere/ca.pem"},
		"client certificate: open":    {CertFile: "/nowhere/c.pem", KeyFile: "/nowhere/k.pem"},
	} {
		if _, err := Open(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, not %q", c, err, want)
		}
	}
}

// TestAuthentication: the store may also be away when the agent starts.
func TestAuthentication(t *testing.T) {
	f := start(t)
	f.RequireUser(t, "overlabd", "secret", prefix)
	s := f.openWith(Config{Endpoints: []string{f.Endpoint}, Username: "overlabd", Password: "secret"})
	f.works(s)
	wrong := Config{Endpoints: []string{f.Endpoint}, Username: "overlabd", Password: "wrong"}
	f.refused(f.openWith(wrong), "authentication failed, invalid user ID or password")
	f.refused(f.open(), "user name is empty")
	// A server that starts anew knows none of the tokens that it gave out.
	next := f.watch(s)
	next("the first list", has(1))
	f.Stop()
	early := f.openWith(Config{Endpoints: []string{f.Endpoint}, Username: "overlabd", Password: "secret"})
	f.refused(early, "connect to etcd at "+f.Endpoint)
	next("the store's end", func(s lease.Snapshot) bool { return s.Err != nil })
	f.Restart(t)
	next("the store's return", has(1))
	f.acquire(early, claim(2, wide))
	next("a lease after that", has(2))
}

// proxy passes connections on to the server, until it is closed.
type proxy struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func newProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			go func() { _, _ = io.Copy(out, in) }()
			go func() { _, _ = io.Copy(in, out) }()
		}
	}()
	t.Cleanup(p.close)
	return p
}

func (p *proxy) close() {
	_ = p.Listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

// TestSeveralEndpoints: one is never there, and one goes while it is used.
func TestSeveralEndpoints(t *testing.T) {
	f := start(t)
	for _, living := range []string{f.Endpoint, "127.0.0.1:2379"} {
		p := newProxy(t, address)
		dies, dead := "http://"+p.Addr().String(), "http://127.0.0.1:1"
		s := f.openWith(Config{Endpoints: []string{dead, dies, living}})
		g := f.acquire(s, claim(1, wide))
		next := f.watch(s)
		next("the first list", has(1))
		p.close()
		for i := range 5 { // whichever connection carries the watch and the calls
			g2 := f.acquire(s, claim(2+i, wide))
			next("a new lease", func(s lease.Snapshot) bool {
				_, ok := s.Find(g2.Lease.Key)
				return ok && s.Err == nil
			})
		}
		if _, err := s.Renew(t.Context(), g.Lease); err != nil {
			t.Error(err)
		}
		if _, err := f.Client.Delete(t.Context(), prefix+"/subnets/"+g.Lease.Key.String()); err != nil {
			t.Fatal(err)
		}
		next("a deleted lease", func(s lease.Snapshot) bool {
			_, ok := s.Find(g.Lease.Key)
			return !ok && s.Err == nil
		})
		for i := range 5 {
			g := f.acquire(s, claim(2+i, wide))
			if _, err := f.Client.Delete(t.Context(), prefix+"/subnets/"+g.Lease.Key.String()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPrefix: keys are where flannel's path.Join puts them, and nowhere else.
func TestPrefix(t *testing.T) {
	f := start(t)
	for _, p := range []string{"/coreos.com/network", "/coreos.com/network/", "/a//b/", "coreos.com/network", "/", "", "/ends-with/subnets"} {
		s, err := Open(Config{Endpoints: []string{f.Endpoint}, Prefix: p, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.NetConf(t.Context()); !errors.Is(err, lease.ErrNoConfig) {
			t.Errorf("prefix %q sees another's configuration: %v", p, err)
		}
		if _, err := f.Client.Put(t.Context(), path.Join(p, "config"), p); err != nil {
			t.Fatal(err)
		}
		if raw, err := s.NetConf(t.Context()); err != nil || string(raw) != p {
			t.Errorf("prefix %q: configuration %q, %v", p, raw, err)
		}
		// A neighbour whose name begins alike is not ours.
		neighbour := path.Join(p, "subnets-of-others") + "/10.244.9.0-24"
		if _, err := f.Client.Put(t.Context(), neighbour, `{"PublicIP":"172.16.1.9"}`); err != nil {
			t.Fatal(err)
		}
		g := f.acquire(s, claim(1, one))
		r, err := f.Client.Get(t.Context(), path.Join(p, "subnets", "10.244.5.0-24"))
		if err != nil || len(r.Kvs) != 1 {
			t.Errorf("prefix %q: the lease is not where flannel has it: %v", p, err)
		}
		f.watch(s)("the lease alone", has(1))
		if _, err := f.Client.Delete(t.Context(), path.Join(p, "subnets", g.Lease.Key.String())); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Client.Delete(t.Context(), path.Join(p, "config")); err != nil {
			t.Fatal(err)
		}
	}
}
