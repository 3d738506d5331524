// Package kube keeps leases in the Kubernetes API as flannel does with
// --kube-subnet-mgr: a lease is a node, its subnet is the node's podCIDR, and
// what peers need to know are annotations of the node (flannel,
// pkg/subnet/kube). The network's configuration is a file.
//
// Nobody allocates here: kube-controller-manager assigns the podCIDRs. No lease
// expires: a peer goes when its node is deleted.
//
// An agent's account needs these verbs, and no others:
//
//	nodes         get, list, watch
//	nodes/status  patch
//	pods          get, only where POD_NAME and POD_NAMESPACE stand in for NODE_NAME
package kube

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/overlab/overlab/agent/lease"
)

const (
	// callTimeout bounds one exchange with the API server.
	callTimeout = 5 * time.Second
	// firstRetry and lastRetry bound the pause before a list or watch that
	// failed is tried again.
	firstRetry = 20 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// Config says how to reach the API and which of its nodes this is.
type Config struct {
	// APIURL is the API server's URL, Kubeconfig the path of a kubeconfig file;
	// where both are empty, the pod's service account is used.
	APIURL, Kubeconfig string
	// AnnotationPrefix is flannel's --kube-annotation-prefix; "" stands for
	// DefaultPrefix.
	AnnotationPrefix string
	// NodeName is the node's name in the API. Where it is empty, PodName and
	// PodNamespace name the pod that the agent runs in, whose node it is.
	NodeName, PodName, PodNamespace string
	// NetConfPath is the path of net-conf.json.
	NetConfPath string
	// AnnounceNetwork lets Announce set the node's condition NetworkUnavailable.
	AnnounceNetwork bool
	// Log is told of what is wrong with the API or in it.
	Log *slog.Logger
}

// Store is a lease.Store in the Kubernetes API.
type Store struct {
	config      Config
	client      *rest.RESTClient
	parameters  runtime.ParameterCodec
	annotations annotations
	log         *slog.Logger
	// network is the configuration that NetConf read last: it says of which
	// families a node's podCIDRs count.
	network atomic.Pointer[lease.Config]

	mu   sync.Mutex
	name string // of the node; empty until it is known
}

var (
	_ lease.Store     = (*Store)(nil)
	_ lease.Registry  = (*Store)(nil)
	_ lease.Announcer = (*Store)(nil)
)

// Open prepares the client and exchanges nothing yet.
func Open(c Config) (*Store, error) {
	if c.NodeName == "" && (c.PodName == "" || c.PodNamespace == "") {
		return nil, errors.New("which node this is, is not known: set NODE_NAME, or POD_NAME and POD_NAMESPACE, in the agent's environment")
	}
	names, err := newAnnotations(c.AnnotationPrefix)
	if err != nil {
		return nil, err
	}
	client, parameters, err := newClient(c.APIURL, c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	return &Store{config: c, client: client, parameters: parameters, annotations: names, log: c.Log, name: c.NodeName}, nil
}

// Close implements lease.Store.
func (s *Store) Close() error {
	s.client.Client.CloseIdleConnections()
	return nil
}

// NetConf implements lease.Store. The agent reads the file once, as flannel
// does: a change counts from its next start.
func (s *Store) NetConf(context.Context) ([]byte, error) {
	raw, err := os.ReadFile(s.config.NetConfPath)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: there is no file %s", lease.ErrNoConfig, s.config.NetConfPath)
	}
	if err != nil {
		return nil, fmt.Errorf("read the network configuration: %w", err)
	}
	c, err := lease.ParseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.config.NetConfPath, err)
	}
	s.network.Store(c)
	return raw, nil
}

// Renew implements lease.Store: a node's lease is for ever.
func (s *Store) Renew(context.Context, lease.Lease) (time.Duration, error) { return 0, nil }
