package suite

import (
	"context"
	"errors"
	"time"

	"github.com/overlab/overlab/harness/probe"
)

// A Watch tells until when a node's state is wrong.
type Watch struct {
	env     *Env
	node    string
	monitor *probe.Monitor // nil in a replay
}

// Watch subscribes to what the kernel tells of a node, before the change that is
// to be followed. The caller closes it.
func (e *Env) Watch(ctx context.Context, node string) (*Watch, error) {
	w := &Watch{env: e, node: node}
	err := Act(ctx, e, "watch "+node, func() error {
		s, err := e.Session(ctx, node)
		if err != nil {
			return err
		}
		w.monitor, err = s.Monitor()
		return err
	})
	return w, err
}

// Close ends the subscription.
func (w *Watch) Close() {
	if w.monitor != nil {
		_ = w.monitor.Close() // it only listened
	}
}

// turn is the state of a node when it was seen to be right, or when the time for
// that was over.
type turn struct {
	At    time.Time    `json:"at"`
	State *probe.State `json:"state"`
}

// Until waits until wrong has nothing to say of the node's state, and returns
// when that was; or, at the limit, what it said last. The record has the last
// state, which wrong judges in a replay.
func (w *Watch) Until(ctx context.Context, limit time.Duration, wrong func(*probe.State) string) (time.Time, string, error) {
	t, err := Observe(ctx, w.env, "the state of "+w.node+" that it came to", func() (turn, error) {
		waiting, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		var t turn
		_, err := w.monitor.Until(waiting, func(st *probe.State) string {
			t = turn{time.Now().Round(0), st}
			return wrong(st)
		})
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && t.State != nil {
			err = nil
		}
		return t, err
	})
	if err != nil {
		return t.At, "", err
	}
	return t.At, wrong(t.State), nil
}

// A Recording keeps what the kernel of a node tells of its neighbours,
// forwarding entries and routes.
type Recording struct {
	env      *Env
	node     string
	recorder *probe.Recorder // nil in a replay
}

// Record begins one. The caller closes it.
func (e *Env) Record(ctx context.Context, node string) (*Recording, error) {
	r := &Recording{env: e, node: node}
	err := Act(ctx, e, "record "+node, func() error {
		s, err := e.Session(ctx, node)
		if err != nil {
			return err
		}
		r.recorder, err = s.Record()
		return err
	})
	return r, err
}

// Close ends it.
func (r *Recording) Close() {
	if r.recorder != nil {
		_ = r.recorder.Close() // it only listened
	}
}

// Notices returns what came so far; an error makes the verdict inconclusive.
func (r *Recording) Notices(ctx context.Context) ([]probe.Notice, error) {
	return Observe(ctx, r.env, "notices of "+r.node, func() ([]probe.Notice, error) {
		n, err := r.recorder.Notices()
		if err != nil {
			err = Inconclusivef("%v", err)
		}
		return n, err
	})
}

// A FileWatch tells how a file of a node is written.
type FileWatch struct {
	env   *Env
	what  string
	watch *probe.FileWatch // nil in a replay
}

// WatchFile watches a file of a node. The caller closes the watch.
func (e *Env) WatchFile(ctx context.Context, node, path string) (*FileWatch, error) {
	w := &FileWatch{env: e, what: path + " of " + node}
	err := Act(ctx, e, "watch "+w.what, func() error {
		s, err := e.Session(ctx, node)
		if err != nil {
			return err
		}
		w.watch, err = s.WatchFile(path)
		return err
	})
	return w, err
}

// Close ends it.
func (w *FileWatch) Close() {
	if w.watch != nil {
		_ = w.watch.Close() // it only looked
	}
}

// Written returns how the file was written since it was last asked; an error
// makes the verdict inconclusive.
func (w *FileWatch) Written(ctx context.Context) (probe.Writing, error) {
	return Observe(ctx, w.env, "how "+w.what+" was written", func() (probe.Writing, error) {
		how, err := w.watch.Written()
		if err != nil {
			err = Inconclusivef("%v", err)
		}
		return how, err
	})
}
