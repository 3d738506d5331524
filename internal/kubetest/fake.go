package kubetest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// bookmarkEvery is the pause between a watch's bookmarks.
const bookmarkEvery = 100 * time.Millisecond

// fake serves nodes over plain HTTP: get, list, watch (with initial events,
// bookmarks, and 410 for what it has forgotten), create, delete, and strategic
// merge patches of a node and of its status.
type fake struct {
	address string
	server  *http.Server

	mu      sync.Mutex
	nodes   map[string]*corev1.Node // never altered, only replaced
	version int64
	history []change
	forgot  int64         // changes up to this version are not in the history
	more    chan struct{} // closed with the next change
}

// change is one entry of the history.
type change struct {
	version int64
	kind    string // ADDED, MODIFIED, DELETED
	node    *corev1.Node
}

func newFake(address string) *fake {
	return &fake{address: address, nodes: map[string]*corev1.Node{}, version: 1, forgot: 1, more: make(chan struct{})}
}

func (f *fake) start(t testing.TB) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/nodes", f.listOrWatch)
	mux.HandleFunc("POST /api/v1/nodes", f.create)
	mux.HandleFunc("GET /api/v1/nodes/{name}", f.get)
	mux.HandleFunc("DELETE /api/v1/nodes/{name}", f.remove)
	mux.HandleFunc("PATCH /api/v1/nodes/{name}", func(w http.ResponseWriter, r *http.Request) { f.patch(w, r, false) })
	mux.HandleFunc("PATCH /api/v1/nodes/{name}/status", func(w http.ResponseWriter, r *http.Request) { f.patch(w, r, true) })
	// The one pod says on which node it runs.
	mux.HandleFunc("GET /api/v1/namespaces/kube-flannel/pods/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Spec: corev1.PodSpec{NodeName: r.PathValue("name") + "-node"}})
	})
	listener, err := net.Listen("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	f.server = &http.Server{Handler: mux, ReadHeaderTimeout: startTimeout}
	go f.server.Serve(listener) // its end is stop's doing
}

func (f *fake) stop() { _ = f.server.Close() }

func (f *fake) lose(_ testing.TB, node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	delete(f.nodes, node)
	f.history, f.forgot = nil, f.version
}

func (f *fake) listOrWatch(w http.ResponseWriter, r *http.Request) {
	if r.FormValue("watch") == "true" || r.FormValue("watch") == "1" {
		f.watch(w, r)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l := &corev1.NodeList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "NodeList"}}
	l.ResourceVersion = strconv.FormatInt(f.version, 10)
	for _, name := range slices.Sorted(maps.Keys(f.nodes)) {
		l.Items = append(l.Items, *f.nodes[name])
	}
	answer(w, l)
}

// watch sends one JSON object for every change, until the client goes.
func (f *fake) watch(w http.ResponseWriter, r *http.Request) {
	from, err := strconv.ParseInt("0"+r.FormValue("resourceVersion"), 10, 64)
	if err != nil {
		refuse(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	send := func(kind string, o runtime.Object) {
		raw, _ := json.Marshal(o) // a node always can be written
		_, _ = fmt.Fprintf(w, "{\"type\":%q,\"object\":%s}\n", kind, raw)
	}
	f.mu.Lock()
	first, gone := []*corev1.Node(nil), from != 0 && from < f.forgot
	if initial := r.FormValue("sendInitialEvents") == "true"; initial || from == 0 {
		gone = false
		for _, name := range slices.Sorted(maps.Keys(f.nodes)) {
			first = append(first, f.nodes[name])
		}
		from = f.version
	}
	f.mu.Unlock()
	if gone {
		status := apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", from, f.forgot)).Status()
		status.APIVersion, status.Kind = "v1", "Status"
		send("ERROR", &status)
		return
	}
	for _, n := range first {
		send("ADDED", n)
	}
	if r.FormValue("sendInitialEvents") == "true" {
		end := bookmark(from)
		end.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
		send("BOOKMARK", end)
	}
	tick := time.NewTicker(bookmarkEvery)
	defer tick.Stop()
	for {
		w.(http.Flusher).Flush()
		f.mu.Lock()
		more, changes := f.more, f.since(from)
		f.mu.Unlock()
		for _, c := range changes {
			send(c.kind, c.node)
			from = c.version
		}
		if len(changes) > 0 {
			continue
		}
		select {
		case <-more:
		case <-tick.C:
			send("BOOKMARK", bookmark(from))
		case <-r.Context().Done():
			return
		}
	}
}

func bookmark(version int64) *corev1.Node {
	return &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: strconv.FormatInt(version, 10)},
	}
}

func (f *fake) since(version int64) []change {
	i := slices.IndexFunc(f.history, func(c change) bool { return c.version > version })
	if i < 0 {
		return nil
	}
	return slices.Clone(f.history[i:])
}

// enter makes a change; the caller holds the lock.
func (f *fake) enter(kind string, n *corev1.Node) {
	f.version++
	n.APIVersion, n.Kind, n.ResourceVersion = "v1", "Node", strconv.FormatInt(f.version, 10)
	f.nodes[n.Name] = n
	if kind == "DELETED" {
		delete(f.nodes, n.Name)
	}
	f.history = append(f.history, change{f.version, kind, n})
	close(f.more)
	f.more = make(chan struct{})
}

func (f *fake) get(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, ok := f.find(w, r); ok {
		answer(w, n)
	}
}

func (f *fake) create(w http.ResponseWriter, r *http.Request) {
	n := new(corev1.Node)
	if err := json.NewDecoder(r.Body).Decode(n); err != nil {
		refuse(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.nodes[n.Name] != nil {
		refuse(w, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "nodes"}, n.Name))
		return
	}
	f.enter("ADDED", n)
	answer(w, n)
}

func (f *fake) remove(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, ok := f.find(w, r); ok {
		f.enter("DELETED", n.DeepCopy())
		answer(w, n)
	}
}

// patch merges into a node, or into its metadata and status alone. What
// changes nothing makes no new version.
func (f *fake) patch(w http.ResponseWriter, r *http.Request, status bool) {
	merge, err := io.ReadAll(r.Body)
	if err == nil && r.Header.Get("Content-Type") != string(types.StrategicMergePatchType) {
		err = fmt.Errorf("the fake merges %s only, not %s", types.StrategicMergePatchType, r.Header.Get("Content-Type"))
	}
	if err != nil {
		refuse(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	before, ok := f.find(w, r)
	if !ok {
		return
	}
	after, err := merged(before, merge)
	if err != nil {
		refuse(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	if status {
		after.Spec = before.Spec
	} else {
		after.Status = before.Status
	}
	if !reflect.DeepEqual(before, after) {
		f.enter("MODIFIED", after)
	}
	answer(w, after)
}

func merged(n *corev1.Node, merge []byte) (*corev1.Node, error) {
	raw, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	raw, err = strategicpatch.StrategicMergePatch(raw, merge, corev1.Node{})
	if err != nil {
		return nil, err
	}
	after := new(corev1.Node)
	return after, json.Unmarshal(raw, after)
}

// find returns the node that is asked for, or answers that there is none.
func (f *fake) find(w http.ResponseWriter, r *http.Request) (*corev1.Node, bool) {
	n, ok := f.nodes[r.PathValue("name")]
	if !ok {
		refuse(w, apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, r.PathValue("name")))
	}
	return n, ok
}

func answer(w http.ResponseWriter, o any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(o) // the client may be gone
}

func refuse(w http.ResponseWriter, err *apierrors.StatusError) {
	status := err.Status()
	status.APIVersion, status.Kind = "v1", "Status"
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status) // the client may be gone
}
