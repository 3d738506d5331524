package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// newClient returns a client for core/v1 alone: client-go's clientset would
// add every other group of the API to the program.
func newClient(url, kubeconfig string) (*rest.RESTClient, runtime.ParameterCodec, error) {
	c, err := clientConfig(url, kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, nil, fmt.Errorf("register the types of core/v1: %w", err)
	}
	c.APIPath, c.GroupVersion = "/api", &corev1.SchemeGroupVersion
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	// A node is some 10 kB, and changes with every heartbeat.
	c.ContentType = runtime.ContentTypeProtobuf
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.UserAgent, c.WarningHandler = "overlabd", rest.NoWarnings{}
	c.QPS, c.Burst = 20, 20
	c.Dial = dialer().DialContext
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, nil, fmt.Errorf("prepare the client of the Kubernetes API at %s: %w", c.Host, err)
	}
	return client, runtime.NewParameterCodec(scheme), nil
}

// dialer makes the connections to the API. That is mostly a service's address,
// which kube-proxy's rules translate: what the kernel remembers of a connection
// there goes with the underlay's link (nf_nat_masquerade.c removes what it has
// masqueraded when a device goes down), and the API's next event reaches nobody.
// A watch only listens, so a probe must find that out: it is answered by a reset.
// And who dials before kube-proxy has its rules is never translated, however
// often the kernel repeats itself; another try is.
func dialer() *net.Dialer {
	return &net.Dialer{
		Timeout:         1500 * time.Millisecond, // a SYN, and one more after a second
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 4},
	}
}

func clientConfig(url, kubeconfig string) (*rest.Config, error) {
	if url == "" && kubeconfig == "" {
		c, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			err = errors.New("this is no pod of a cluster; name the API with --kubeconfig-file or --kube-api-url")
		}
		if err != nil {
			return nil, fmt.Errorf("find the Kubernetes API: %w", err)
		}
		return c, nil
	}
	c, err := clientcmd.BuildConfigFromFlags(url, kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read how to reach the Kubernetes API (--kube-api-url=%s --kubeconfig-file=%s): %w", url, kubeconfig, err)
	}
	return c, nil
}

// quiet keeps client-go from logging by itself: each failure is told of once,
// by those who call it.
func quiet(ctx context.Context) context.Context { return klog.NewContext(ctx, logr.Discard()) }

// own reads the node that this is.
func (s *Store) own(ctx context.Context) (*corev1.Node, error) {
	name, err := s.nodeName(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(quiet(ctx), callTimeout)
	defer cancel()
	n := new(corev1.Node)
	if err := s.client.Get().Resource("nodes").Name(name).Do(ctx).Into(n); err != nil {
		return nil, fmt.Errorf("read node %s: %w", name, err)
	}
	return n, nil
}

// nodeName returns the node's name, which the API may have to be asked for.
func (s *Store) nodeName(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.name != "" {
		return s.name, nil
	}
	ctx, cancel := context.WithTimeout(quiet(ctx), callTimeout)
	defer cancel()
	pod := new(corev1.Pod)
	err := s.client.Get().Namespace(s.config.PodNamespace).Resource("pods").Name(s.config.PodName).Do(ctx).Into(pod)
	if err == nil && pod.Spec.NodeName == "" {
		err = errors.New("it is on no node")
	}
	if err != nil {
		return "", fmt.Errorf("find the node of pod %s/%s: %w", s.config.PodNamespace, s.config.PodName, err)
	}
	s.name = pod.Spec.NodeName
	return s.name, nil
}

// patch merges into the node's metadata and status.
func (s *Store) patch(ctx context.Context, name string, merge []byte) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(quiet(ctx), callTimeout)
	defer cancel()
	n := new(corev1.Node)
	err := s.client.Patch(types.StrategicMergePatchType).Resource("nodes").Name(name).SubResource("status").Body(merge).Do(ctx).Into(n)
	if err != nil {
		return nil, fmt.Errorf("patch the status of node %s: %w", name, err)
	}
	return n, nil
}

// list and watch do not try again by themselves, as requests do: the reflector
// does, and until then it is to be known that nothing is followed.
func (s *Store) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	l := new(corev1.NodeList)
	err := s.client.Get().Resource("nodes").MaxRetries(0).VersionedParams(&o, s.parameters).Do(ctx).Into(l)
	return l, err
}

func (s *Store) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return s.client.Get().Resource("nodes").MaxRetries(0).VersionedParams(&o, s.parameters).Watch(ctx)
}
