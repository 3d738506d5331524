package kubernetes

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/overlab/overlab/topology"
)

// kubelet makes pods ready as soon as they are created, and those of DaemonSets
// with them.
func (f *fake) kubelet(t *testing.T, nodes ...string) {
	ready := func(u *unstructured.Unstructured, address string) {
		u.Object["status"] = map[string]any{
			"phase": "Running", "podIPs": []any{map[string]any{"ip": address}},
			"conditions": []any{map[string]any{"type": "Ready", "status": "True"}},
		}
	}
	f.made = func(path string, o *unstructured.Unstructured) {
		switch o.GetKind() {
		case "Pod":
			ready(o, "10.244.0.9")
		case "DaemonSet":
			for _, n := range nodes {
				p := &corev1.Pod{
					TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
					ObjectMeta: metav1.ObjectMeta{Name: "session-" + n, Namespace: o.GetNamespace(), Labels: map[string]string{partLabel: partNode}},
					Spec:       corev1.PodSpec{NodeName: n},
				}
				content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(p)
				if err != nil {
					t.Error(err)
				}
				u := &unstructured.Unstructured{Object: content}
				ready(u, "10.0.0.1")
				f.objects["/api/v1/namespaces/"+o.GetNamespace()+"/pods/session-"+n] = u
			}
		}
	}
}

func planned(t *testing.T, a *api) (*Discovery, *topology.Plan) {
	t.Helper()
	d, err := discover(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return d, d.plan("test")
}

// TestSession: everything that a session makes is in its namespace, with no more
// rights than it says, and goes with it.
func TestSession(t *testing.T) {
	f, a := newFake(t, map[string][]runtime.Object{
		nodesAt:                          {node("m", "10.0.0.1", "10.244.0.0/24")},
		at(daemonSetsAt, "kube-flannel"): {daemonSet("kube-flannel", "kube-flannel-ds", nil, nil, "/run/flannel")},
	})
	before := f.paths()
	f.kubelet(t, "m")
	d, plan := planned(t, a)
	s, err := begin(t.Context(), a, d, plan, "image:1", forCommand, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range f.paths() {
		own := strings.Contains(path, "/namespaces/"+s.namespace)
		if was := contains(before, path); own == was {
			t.Errorf("%s: in the session's namespace %v, there before %v", path, own, was)
		}
	}
	f.mu.Lock()
	set := f.objects["/apis/apps/v1/namespaces/"+s.namespace+"/daemonsets/session"]
	pod := f.objects["/api/v1/namespaces/"+s.namespace+"/pods/pod-1"]
	role := f.objects["/apis/rbac.authorization.k8s.io/v1/namespaces/"+s.namespace+"/roles/session"]
	f.mu.Unlock()
	spec, _, _ := unstructured.NestedMap(set.Object, "spec", "template", "spec")
	if spec["hostNetwork"] != true || spec["hostPID"] != nil || spec["serviceAccountName"] != "session" {
		t.Errorf("the probes on nodes: %v", spec)
	}
	c := spec["containers"].([]any)[0].(map[string]any)
	mount := c["volumeMounts"].([]any)[0].(map[string]any)
	if mount["readOnly"] != true || mount["mountPath"] != "/run/flannel" || c["image"] != "image:1" {
		t.Errorf("the container: %v", c)
	}
	security := c["securityContext"].(map[string]any)
	capabilities := security["capabilities"].(map[string]any)
	if security["privileged"] != nil || len(capabilities["add"].([]any)) != 2 || capabilities["drop"].([]any)[0] != "ALL" {
		t.Errorf("its rights: %v", security)
	}
	if token, _, _ := unstructured.NestedBool(pod.Object, "spec", "automountServiceAccountToken"); token {
		t.Error("a test pod has a token")
	}
	if rules := role.Object["rules"].([]any); len(rules) != 2 {
		t.Errorf("the account's rights: %v", rules)
	}
	pods, err := s.pods(t.Context())
	if err != nil || pods["m"] == nil || pods["pod-2"] == nil || len(pods) != 3 {
		t.Errorf("%v (%v)", pods, err)
	}
	gone, end := context.WithCancel(t.Context())
	end() // as Ctrl-C does
	if err := errors.Join(s.remove(gone), s.gone(t.Context())); err != nil {
		t.Fatal(err)
	}
	if left := f.paths(); strings.Join(left, " ") != strings.Join(before, " ") {
		t.Errorf("left: %v", left)
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// TestSessionFails: what was made before a failure goes again, and the error
// says what is wrong.
func TestSessionFails(t *testing.T) {
	for name, c := range map[string]struct {
		refuse func(method, path string) *apierrors.StatusError
		status map[string]any
		want   string
	}{
		"no rights": {
			refuse: func(method, path string) *apierrors.StatusError {
				if method != "POST" || !strings.HasSuffix(path, "/roles") {
					return nil
				}
				return apierrors.NewForbidden(schema.GroupResource{Resource: "roles"}, "session", errors.New("you may not"))
			},
			want: "you may not",
		},
		"no image": {
			status: map[string]any{"containerStatuses": []any{map[string]any{
				"image": "image:1", "state": map[string]any{"waiting": map[string]any{"reason": "ErrImagePull", "message": "no such host"}},
			}}},
			want: "node m cannot get the image image:1: no such host (`overlab image agent` makes an archive",
		},
		"another program": {
			status: map[string]any{"containerStatuses": []any{map[string]any{
				"image": "image:1", "state": map[string]any{"waiting": map[string]any{"reason": "CrashLoopBackOff", "message": "no overlab"}},
			}}},
			want: "must have overlab in its PATH",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, a := newFake(t, map[string][]runtime.Object{nodesAt: {node("m", "10.0.0.1", "10.244.0.0/24")}})
			d, plan := planned(t, a)
			before := f.paths()
			f.kubelet(t, "m")
			ready := f.made
			f.refuse = c.refuse
			f.made = func(path string, o *unstructured.Unstructured) {
				ready(path, o)
				if o.GetKind() == "Pod" && c.status != nil {
					o.Object["status"] = c.status
				}
			}
			_, err := begin(t.Context(), a, d, plan, "image:1", forCommand, false)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if left := f.paths(); strings.Join(left, " ") != strings.Join(before, " ") {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestKeep: a session goes when its lease was not renewed for as long as it says,
// by this machine's clock, and not before.
func TestKeep(t *testing.T) {
	lease := func(seconds int32, renewed time.Time) runtime.Object {
		at := metav1.NewMicroTime(renewed)
		return &coordinationv1.Lease{
			TypeMeta:   metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
			ObjectMeta: metav1.ObjectMeta{Name: sessionName, Namespace: "s"},
			Spec:       coordinationv1.LeaseSpec{LeaseDurationSeconds: &seconds, RenewTime: &at},
		}
	}
	const leases = "/apis/coordination.k8s.io/v1/namespaces/s/leases"
	space := &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: "s"}}
	f, a := newFake(t, map[string][]runtime.Object{
		"/api/v1/namespaces": {space},
		leases:               {lease(1, time.Now().Add(-time.Hour))}, // the other machine's clock is an hour behind
	})
	var asked atomic.Int64
	f.refuse = func(method, path string) *apierrors.StatusError {
		if n := asked.Add(1); n == 3 {
			return apierrors.NewServiceUnavailable("a pause")
		}
		return nil
	}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- keep(ctx, a, "s", sessionName, 20*time.Millisecond) }()
	s := &session{api: a, namespace: "s", purpose: forCommand}
	for time.Since(began) < 1500*time.Millisecond {
		if err := s.renewOnce(t.Context()); err != nil && !apierrors.IsServiceUnavailable(err) {
			t.Fatal(err)
		}
		if err := pause(t.Context(), 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.paths()) != 2 {
		t.Fatalf("it went while it was renewed: %v", f.paths())
	}
	last := time.Now()
	waiting, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for len(f.paths()) > 0 {
		if err := pause(waiting, 10*time.Millisecond); err != nil {
			t.Fatal("it is still there")
		}
	}
	if after := time.Since(last); after < 800*time.Millisecond {
		t.Errorf("it went %v after it was renewed last, with a lease of 1 s", after)
	}
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAccess: what is wrong with a kubeconfig is said, with the flags that mend
// it.
func TestAccess(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("KUBECONFIG", filepath.Join(dir, "none"))
	t.Setenv("HOME", dir)
	if _, err := (Access{}).connect(); err == nil || !strings.Contains(err.Error(), "--kubeconfig or KUBECONFIG") {
		t.Errorf("no kubeconfig: %v", err)
	}
	if _, err := (Access{Kubeconfig: filepath.Join(dir, "nosuch")}).connect(); err == nil || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("a file that is not there: %v", err)
	}
	file := filepath.Join(dir, "config")
	text := `{apiVersion: v1, kind: Config, current-context: one, clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}],
users: [{name: u, user: {}}], contexts: [{name: one, context: {cluster: c, user: u}}, {name: two, context: {cluster: c, user: u}}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", file)
	if c, err := (Access{}).connect(); err != nil || c.context != "one" {
		t.Errorf("%+v, %v", c, err)
	}
	if got := strings.Join(Access{}.Contexts(), " "); got != "one two" {
		t.Errorf("contexts %q", got)
	}
	if _, err := (Access{Context: "three"}).connect(); err == nil || !strings.Contains(err.Error(), "three") {
		t.Errorf("a context that is not there: %v", err)
	}
	p := &Provider{Access: Access{Context: "two"}}
	if _, err := p.Open(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "cluster two") {
		t.Errorf("an API that does not answer: %v", err)
	}
}

// TestAddress: a pod's address is its IPv4 one.
func TestAddress(t *testing.T) {
	p := &topology.Pod{Name: "pod-1", Node: "m"}
	pod := &corev1.Pod{Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "fd00::1"}, {IP: "10.244.0.5"}}}}
	if err := setAddress(p, pod); err != nil || p.Address != netip.MustParsePrefix("10.244.0.5/32") {
		t.Errorf("%s, %v", p.Address, err)
	}
	if err := setAddress(p, nil); err == nil || !strings.Contains(err.Error(), "overlab down") {
		t.Errorf("no pod: %v", err)
	}
	if err := setAddress(p, &corev1.Pod{}); err == nil {
		t.Error("no address: no error")
	}
}
