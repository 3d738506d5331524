// Package etcd keeps leases in etcd (API v3) as flannel does: the network's
// configuration at <prefix>/config, a lease at <prefix>/subnets/<subnet>-<len>.
package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/overlab/overlab/agent/lease"
)

const (
	// callTimeout bounds one exchange with the store.
	callTimeout = 5 * time.Second
	// firstRetry and lastRetry bound the pause before a failed exchange or
	// connection is tried again. A store that starts together with its agents
	// is often there within milliseconds.
	firstRetry = 10 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// Config says how to reach the store.
type Config struct {
	Endpoints []string
	// Prefix is flannel's --etcd-prefix. Keys are made of it as flannel does,
	// by path.Join: no slash is put before it.
	Prefix string
	// CAFile, CertFile and KeyFile are PEM files. CAFile may be given alone;
	// CertFile and KeyFile, the client's own, go together. Without CAFile the
	// system's authorities vouch for an endpoint of https.
	CAFile, CertFile, KeyFile string
	// Username and Password go together.
	Username, Password string
	// Log is told of what is wrong with the store or in it.
	Log *slog.Logger
}

// Store is a lease.Store in etcd.
type Store struct {
	config clientv3.Config
	prefix string
	log    *slog.Logger

	mu     sync.Mutex
	client *clientv3.Client // nil before connect
}

var _ lease.Store = (*Store)(nil)

// Open prepares the connection and does not wait for it. Its error says which
// file could not be read, or what is missing beside another.
func Open(c Config) (*Store, error) {
	tlsConfig, err := loadTLS(c)
	if err != nil {
		return nil, err
	}
	if (c.Username == "") != (c.Password == "") {
		return nil, errors.New("etcd's user name and password go together: give both, or neither")
	}
	for _, e := range c.Endpoints {
		if tlsConfig != nil && !strings.HasPrefix(e, "https://") && !strings.HasPrefix(e, "unixs://") {
			c.Log.Warn("this endpoint is reached without TLS, whatever certificates there are: only https:// asks for it", "endpoint", e)
		}
	}
	connect := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: firstRetry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastRetry},
		MinConnectTimeout: lastRetry,
	}
	return &Store{prefix: c.Prefix, log: c.Log, config: clientv3.Config{
		Endpoints: c.Endpoints, TLS: tlsConfig, Username: c.Username, Password: c.Password,
		DialTimeout: callTimeout,
		// A store whose packets vanish is noticed within ten seconds; etcd
		// forbids to ask more often than every five.
		DialKeepAliveTime: 6 * time.Second, DialKeepAliveTimeout: 4 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(connect)},
		Logger:      zap.NewNop(),
	}}, nil
}

// connect returns the client, and makes it the first time. That cannot be done
// once and for all by Open: with a user name, making it logs in, which fails
// while the store is away.
func (s *Store) connect(ctx context.Context) (*clientv3.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	// The client's context is for its whole life, and ours for making it.
	life, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	c := s.config
	c.Context = life
	client, err := clientv3.New(c)
	if err == nil && !stop() {
		err = errors.Join(context.Cause(ctx), client.Close())
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("connect to etcd at %s: %w", strings.Join(c.Endpoints, ","), err)
	}
	s.client = client
	return client, nil
}

func loadTLS(c Config) (*tls.Config, error) {
	switch {
	case c.CertFile != "" && c.KeyFile == "":
		return nil, fmt.Errorf("etcd's client certificate %s has no key: give both, or neither", c.CertFile)
	case c.CertFile == "" && c.KeyFile != "":
		return nil, fmt.Errorf("etcd's client key %s has no certificate: give both, or neither", c.KeyFile)
	case c.CertFile == "" && c.CAFile == "":
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read etcd's certificate authority: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read etcd's certificate authority: %s holds no PEM certificate", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read etcd's client certificate: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

// Close implements lease.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		return nil
	}
	return s.client.Close()
}

// NetConf implements lease.Store.
func (s *Store) NetConf(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	key := path.Join(s.prefix, "config")
	r, err := client.Get(ctx, key)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s from etcd: %w", key, err), s.handshakes())
	}
	if len(r.Kvs) == 0 {
		return nil, fmt.Errorf("read %s from etcd: %w", key, lease.ErrNoConfig)
	}
	return r.Kvs[0].Value, nil
}

// Renew implements lease.Store. It prolongs etcd's lease and leaves the key as
// it is, so that no peer is bothered.
func (s *Store) Renew(ctx context.Context, l lease.Lease) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ttl, err := s.prolong(ctx, l.ID)
	if err != nil && !errors.Is(err, lease.ErrExpired) {
		err = fmt.Errorf("renew lease %s: %w", l.Key, err)
	}
	return ttl, err
}

// prolong makes an etcd lease live for another while; 0 is a key without one.
func (s *Store) prolong(ctx context.Context, id int64) (time.Duration, error) {
	if id == 0 {
		return 0, nil
	}
	client, err := s.connect(ctx)
	if err != nil {
		return 0, err
	}
	r, err := client.KeepAliveOnce(ctx, clientv3.LeaseID(id))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return 0, lease.ErrExpired
	}
	if err != nil {
		return 0, err
	}
	return time.Duration(r.TTL) * time.Second, nil
}

// pause waits before the next try; false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// errLostRace says that another node changed a key between our read and write.
var errLostRace = errors.New("another node was faster")
