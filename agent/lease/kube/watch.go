package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/overlab/overlab/agent/lease"
)

// Watch implements lease.Store. It is client-go's reflector, the engine of its
// informers, that lists, watches, resumes, and lists again when the API has
// forgotten what was missed; of each node the view keeps the lease alone.
func (s *Store) Watch(ctx context.Context, fn func(lease.Snapshot)) {
	v := &view{
		Store: s, entries: map[string]entry{}, said: map[string]string{}, changed: make(chan struct{}, 1),
		err: errors.New("the nodes have not been read yet"),
	}
	r := cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc:  v.list,
		WatchFuncWithContext: v.watch,
	}, new(corev1.Node), v, cache.ReflectorOptions{
		Name: "nodes", Backoff: &wait.Backoff{Duration: firstRetry, Cap: lastRetry, Factor: 2, Jitter: 0.2, Steps: 10},
	})
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { r.RunWithContext(quiet(ctx)) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.changed:
			fn(v.snapshot())
		}
	}
}

// view is what is known of the nodes. It is the reflector's store.
type view struct {
	*Store
	// changed asks for the snapshot to be told again.
	changed chan struct{}

	mu      sync.Mutex
	entries map[string]entry // by the node's name
	rev     int64
	err     error             // why changes do not arrive
	said    map[string]string // what the log was told last, by node; "" is the API
}

var _ cache.ReflectorStore = (*view)(nil)

// entry is one node's lease.
type entry struct {
	lease lease.Lease
	// bad says why the present annotations cannot be read, held that lease has
	// attributes: the present ones, or the last that could be read.
	bad  error
	held bool
}

func (e entry) equal(o entry) bool {
	return e.lease.Key == o.lease.Key && e.lease.Attrs.Equal(o.lease.Attrs) && (e.bad == nil) == (o.bad == nil) && e.held == o.held
}

// list and watch are how the reflector asks; what becomes of it is noted.
func (v *view) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	l, err := v.Store.list(ctx, o)
	if err != nil {
		v.report(ctx, fmt.Errorf("list the nodes: %w", brief(err)))
	}
	return l, err
}

func (v *view) watch(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
	w, err := v.Store.watch(ctx, o)
	switch {
	case err == nil:
		v.report(ctx, nil)
	case o.SendInitialEvents != nil && apierrors.IsInvalid(err):
		// An older API server cannot send its list as a stream; the reflector
		// now asks for the list itself.
	default:
		v.report(ctx, fmt.Errorf("watch the nodes: %w", brief(err)))
	}
	return w, err
}

// brief leaves the query out of an error's URL: a watch's has a random
// timeout in it, and each try would look like another error.
func brief(err error) error {
	var u *url.Error
	if !errors.As(err, &u) {
		return err
	}
	at, _, _ := strings.Cut(u.URL, "?")
	return &url.Error{Op: u.Op, URL: at, Err: u.Err}
}

// report notes whether changes arrive.
func (v *view) report(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err == nil {
		if v.said[""] != "" {
			v.log.Info("the nodes are followed again")
		}
		delete(v.said, "")
	} else {
		v.complain("", "watching the nodes was interrupted; what is known stays in force", err)
	}
	if v.err != nil || err != nil {
		v.err = err
		v.tell()
	}
}

// complain logs what is wrong with a node, once.
func (v *view) complain(node, what string, err error) {
	if text := err.Error(); v.said[node] != text {
		v.said[node] = text
		v.log.Warn(what, "err", err)
	}
}

// tell asks for the snapshot to be told, and does not wait.
func (v *view) tell() {
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

// Add implements cache.ReflectorStore.
func (v *view) Add(obj any) error { return v.Update(obj) }

// Update implements cache.ReflectorStore.
func (v *view) Update(obj any) error {
	n, err := node(obj)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.advance(n.ResourceVersion)
	e, found := v.read(n)
	before, known := v.entries[n.Name]
	switch {
	case found:
		v.entries[n.Name] = e
	default:
		delete(v.entries, n.Name)
	}
	if found != known || found && !e.equal(before) {
		v.tell()
	}
	return nil
}

// Delete implements cache.ReflectorStore.
func (v *view) Delete(obj any) error {
	n, err := node(obj)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.advance(n.ResourceVersion)
	if _, known := v.entries[n.Name]; known {
		v.tell()
	}
	delete(v.entries, n.Name)
	delete(v.said, n.Name)
	return nil
}

// Replace implements cache.ReflectorStore: the list after which nothing that
// came before counts, but for what was readable of a node that no longer is.
func (v *view) Replace(objs []any, version string) error {
	nodes := make([]*corev1.Node, len(objs))
	for i, obj := range objs {
		n, err := node(obj)
		if err != nil {
			return err
		}
		nodes[i] = n
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	rev, err := revision(version)
	if err != nil {
		v.complain("", "the nodes cannot be followed", err)
		return err
	}
	v.rev = rev
	fresh := make(map[string]entry, len(nodes))
	for _, n := range nodes {
		if e, found := v.read(n); found {
			fresh[n.Name] = e
		}
	}
	v.entries = fresh
	v.tell()
	return nil
}

// Resync implements cache.ReflectorStore; it is not asked for.
func (v *view) Resync() error { return nil }

func node(obj any) (*corev1.Node, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return nil, fmt.Errorf("the API sent a %T in place of a node", obj)
	}
	return n, nil
}

// advance enters an object's version.
func (v *view) advance(version string) {
	if r, err := revision(version); err == nil {
		v.rev = max(v.rev, r)
	}
}

// read returns a node's entry; false for a node that has no lease. What
// cannot be read is told of and passed over: one node's annotations must cost
// no other node its place in the overlay.
func (v *view) read(n *corev1.Node) (entry, bool) {
	if n.Annotations[v.annotations.managed] != "true" {
		delete(v.said, n.Name)
		return entry{}, false
	}
	key, err := podSubnets(n)
	key = enabled(key, v.network.Load())
	if err == nil && key == (lease.Key{}) {
		err = fmt.Errorf("node %s has no podCIDR of an enabled family", n.Name)
	}
	if err != nil {
		v.complain(n.Name, "passing over a node without a subnet", err)
		return entry{}, false
	}
	e := entry{lease: lease.Lease{Key: key}, held: true}
	e.lease.Revision, _ = revision(n.ResourceVersion) // nobody compares a peer's
	if e.lease.Attrs, err = v.annotations.read(n.Annotations); err != nil {
		err = fmt.Errorf("node %s: %w", n.Name, err)
		v.complain(n.Name, "passing over annotations that cannot be read", err)
		e = entry{lease: lease.Lease{Key: key, Revision: e.lease.Revision}, bad: err}
		if before := v.entries[n.Name]; before.held && before.lease.Key == key {
			e.lease, e.held = before.lease, true
		}
		return e, true
	}
	delete(v.said, n.Name)
	return e, true
}

// snapshot returns the leases that can be read. Where two nodes have one
// subnet, it is this node's, or else that of the first name.
func (v *view) snapshot() lease.Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := lease.Snapshot{Revision: v.rev, Err: v.err}
	holders := map[lease.Key]string{}
	for _, name := range v.names() {
		e := v.entries[name]
		if holder, taken := holders[e.lease.Key]; taken {
			v.complain(name, "passing over a node", fmt.Errorf("nodes %s and %s have one podCIDR, %s", holder, name, e.lease.Key))
			continue
		}
		holders[e.lease.Key] = name
		if e.held {
			s.Leases = append(s.Leases, e.lease)
		}
		if e.bad != nil {
			s.Unreadable = append(s.Unreadable, e.lease.Key)
		}
	}
	lease.Sort(s.Leases)
	return s
}

// names returns those of the nodes with a lease, this one's first.
func (v *view) names() []string {
	names := slices.Sorted(maps.Keys(v.entries))
	if i := slices.Index(names, v.self()); i > 0 {
		names = slices.Insert(slices.Delete(names, i, i+1), 0, v.self())
	}
	return names
}

// self returns this node's name, "" while it is not known.
func (s *Store) self() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.name
}
