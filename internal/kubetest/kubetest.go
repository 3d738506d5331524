// Package kubetest runs a Kubernetes API server inside a test: a real
// kube-apiserver where one has been built (hack/kube-apiserver), and always a
// fake, which serves nodes alone and does with them what the real one does.
package kubetest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Server is a running API server.
type Server struct {
	// Kubeconfig is the file of an account that may do what package
	// agent/lease/kube says that an agent must be allowed to.
	Kubeconfig string

	program program
	client  *rest.RESTClient // of an account that may do everything
}

// program is what serves.
type program interface {
	// start serves what is in the storage; it returns when requests succeed.
	start(testing.TB)
	// stop ends it, and keeps the storage.
	stop()
	// lose removes a node from the storage of a server that is stopped, and
	// with it the history that a watch could learn of it from.
	lose(t testing.TB, node string)
}

// Each runs f twice: start is then Fake, and Real where there is a
// kube-apiserver.
func Each(t *testing.T, f func(t *testing.T, start Start)) {
	t.Helper()
	t.Run("fake", func(t *testing.T) { f(t, Fake) })
	t.Run("kube-apiserver", func(t *testing.T) { f(t, Real) })
}

// Start runs a server at the address ("host:port") until the test ends.
type Start func(t testing.TB, address string) *Server

// Fake runs the fake at the address ("host:port") until the test ends.
func Fake(t testing.TB, address string) *Server {
	t.Helper()
	host := &rest.Config{Host: "http://" + address}
	return serve(t, newFake(address), host, host)
}

// Real runs kube-apiserver at the address ("host:port") until the test ends,
// with an etcd of its own. Without the program it skips the test.
func Real(t testing.TB, address string) *Server {
	t.Helper()
	k := newKubeAPIServer(t, address)
	return serve(t, k, k.account(adminToken), k.account(agentToken))
}

func serve(t testing.TB, p program, admin, agent *rest.Config) *Server {
	t.Helper()
	s := &Server{program: p, client: client(t, admin), Kubeconfig: kubeconfig(t, agent)}
	t.Cleanup(p.stop)
	p.start(t)
	return s
}

// Stop ends the server and keeps what it has stored. No request goes out by a
// connection of before: net/http gives up a PATCH whose connection has ended.
func (s *Server) Stop() {
	s.program.stop()
	s.client.Client.CloseIdleConnections() // where the transport is net/http's own
	utilnet.CloseIdleConnectionsFor(s.client.Client.Transport)
}

// Restart serves again what was stored.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.program.start(t)
}

// Lose removes a node while the server is stopped, in such a way that no watch
// will tell of it.
func (s *Server) Lose(t testing.TB, node string) {
	t.Helper()
	s.program.lose(t, node)
}

// AddNode makes a node; it may have no podCIDR, or one of each family.
func (s *Server) AddNode(t testing.TB, name string, podCIDRs ...string) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: podCIDRs}}
	if len(podCIDRs) > 0 {
		n.Spec.PodCIDR = podCIDRs[0]
	}
	if err := s.client.Post().Resource("nodes").Body(n).Do(t.Context()).Error(); err != nil {
		t.Fatalf("add node %s: %v", name, err)
	}
}

// SetPodCIDRs assigns a node's subnets, which it did not have before.
func (s *Server) SetPodCIDRs(t testing.TB, name string, podCIDRs ...string) {
	t.Helper()
	s.patch(t, name, map[string]any{"spec": map[string]any{"podCIDR": podCIDRs[0], "podCIDRs": podCIDRs}})
}

// Annotate sets annotations of a node; nil removes one.
func (s *Server) Annotate(t testing.TB, name string, annotations map[string]any) {
	t.Helper()
	s.patch(t, name, map[string]any{"metadata": map[string]any{"annotations": annotations}})
}

func (s *Server) patch(t testing.TB, name string, merge map[string]any) {
	t.Helper()
	raw, err := json.Marshal(merge)
	if err == nil {
		err = s.client.Patch(types.StrategicMergePatchType).Resource("nodes").Name(name).Body(raw).Do(t.Context()).Error()
	}
	if err != nil {
		t.Fatalf("patch node %s: %v", name, err)
	}
}

// Node returns a node.
func (s *Server) Node(t testing.TB, name string) *corev1.Node {
	t.Helper()
	n := new(corev1.Node)
	if err := s.client.Get().Resource("nodes").Name(name).Do(t.Context()).Into(n); err != nil {
		t.Fatalf("read node %s: %v", name, err)
	}
	return n
}

// DeleteNode removes a node.
func (s *Server) DeleteNode(t testing.TB, name string) {
	t.Helper()
	if err := s.client.Delete().Resource("nodes").Name(name).Do(t.Context()).Error(); err != nil {
		t.Fatalf("delete node %s: %v", name, err)
	}
}

// DeleteNodes removes all nodes.
func (s *Server) DeleteNodes(t testing.TB) {
	t.Helper()
	// Tests clean up with it, when their own context has ended.
	l := new(corev1.NodeList)
	if err := s.client.Get().Resource("nodes").Do(context.Background()).Into(l); err != nil {
		t.Errorf("list the nodes: %v", err)
	}
	for _, n := range l.Items {
		if err := s.client.Delete().Resource("nodes").Name(n.Name).Do(context.Background()).Error(); err != nil {
			t.Errorf("delete node %s: %v", n.Name, err)
		}
	}
}

// client returns a client for core/v1, in JSON.
func client(t testing.TB, c *rest.Config) *rest.RESTClient {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c = rest.CopyConfig(c)
	c.APIPath, c.GroupVersion = "/api", &corev1.SchemeGroupVersion
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.QPS, c.Burst = 1000, 1000
	out, err := rest.RESTClientFor(c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kubeconfig writes a file that says the same as c.
func kubeconfig(t testing.TB, c *rest.Config) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: c.Host, InsecureSkipTLSVerify: c.Insecure}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: c.BearerToken}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// startTimeout is generous: the machine may be busy with other tests.
const startTimeout = 90 * time.Second

// binary returns the path of kube-apiserver: that of KUBE_APISERVER in the
// environment, or the newest that hack/kube-apiserver has built.
func binary() (string, error) {
	if path := os.Getenv("KUBE_APISERVER"); path != "" {
		return path, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	pattern := filepath.Join(cache, "overlab", "kube-apiserver-*")
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fmt.Errorf("there is no %s: build it with `make kube-apiserver`, some minutes, or name one in KUBE_APISERVER", pattern)
	}
	return found[len(found)-1], nil
}

// host returns the address without its port.
func host(address string) string { return netip.MustParseAddrPort(address).Addr().String() }
