package suite

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/overlab/overlab/harness/capture"
)

// A Record is what the checks of a run measured: every request to a probe
// session with its answer, whatever else they observed, and every capture with
// all its frames. From it and the plan, Suite.Verify derives their verdicts
// again.
type Record struct {
	Exchanges []Exchange
	Captures  []RecordedCapture
	// Full says that there was more than maxRecord, and what came after is not
	// there.
	Full bool

	mu   sync.Mutex
	size int
	shut bool
}

// Exchange is one request to a probe session and its answer, or what was
// observed elsewhere.
type Exchange struct {
	// Scope is the check that asked, or the name of what several share.
	Scope string `json:"scope,omitempty"`
	// Session is the node or pod, or nothing for what no session was asked.
	Session string `json:"session,omitempty"`
	// Kind is of a session's requests, or what was observed.
	Kind    string          `json:"kind"`
	Request json.RawMessage `json:"request,omitempty"`
	Answer  json.RawMessage `json:"answer"`
	Error   string          `json:"error,omitempty"`
	// Verdict is what the error stands for, if it does for one.
	Verdict Verdict `json:"verdict,omitempty"`
}

// RecordedCapture is one call of Env.Capture.
type RecordedCapture struct {
	Scope string `json:"scope"`
	// Points are where it was made, with their filters.
	Points []string `json:"points"`
	// Doubts say why the capture cannot be trusted, where it cannot.
	Doubts []string `json:"doubts,omitempty"`
	// Frames were seen, in the order of the points.
	Frames []capture.Frame `json:"-"`
}

// limits are those of a run's options that its checks see.
type limits struct {
	Timeouts Timeouts `json:"timeouts"`
	MaxPairs int      `json:"maxPairs"`
}

// limitsKind is what the record has them as.
const limitsKind = "limits of the run"

// maxRecord bounds a record, in bytes.
const maxRecord = 64 << 20

// ErrNotRecorded says that a check asked what the record does not hold.
var ErrNotRecorded = errors.New("it is not in the record")

// scopeKey is that of the scope in a context.
type scopeKey struct{}

// unrecorded is the scope of what does not belong to the record.
const unrecorded = "-"

func withScope(ctx context.Context, scope string) context.Context {
	return context.WithValue(ctx, scopeKey{}, scope)
}

func scopeOf(ctx context.Context) string {
	s, _ := ctx.Value(scopeKey{}).(string)
	return s
}

// room reports whether so many bytes still fit.
func (r *Record) room(n int) bool {
	if r.shut {
		return false
	}
	if r.size += n; r.size > maxRecord {
		r.Full = true
	}
	return !r.Full
}

// close ends the record: a check that does not stop must not add to it while it
// is written.
func (r *Record) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shut = true
}

// heard is what a session calls.
func (r *Record) heard(session string) func(context.Context, string, any, any, error) {
	return func(ctx context.Context, kind string, request, answer any, err error) {
		x := Exchange{Scope: scopeOf(ctx), Session: session, Kind: kind}
		if x.Scope == unrecorded {
			return
		}
		var e1, e2 error
		x.Request, e1 = json.Marshal(request)
		x.Answer, e2 = json.Marshal(answer)
		if errors.Join(e1, e2) != nil {
			return // plain data never fails; what is not there cannot be replayed
		}
		r.add(x, err)
	}
}

// observed is what Observe saw.
func (r *Record) observed(ctx context.Context, what string, seen any, err error) {
	x := Exchange{Scope: scopeOf(ctx), Kind: what}
	var failed error
	if x.Answer, failed = json.Marshal(seen); failed == nil {
		r.add(x, err)
	}
}

// add appends what was measured, with its error.
func (r *Record) add(x Exchange, err error) {
	if x.Scope == unrecorded {
		return
	}
	if err != nil {
		x.Error = err.Error()
		var v *verdictError
		if errors.As(err, &v) {
			x.Verdict = v.verdict
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.room(len(x.Request) + len(x.Answer)) {
		r.Exchanges = append(r.Exchanges, x)
	}
}

func (r *Record) captured(ctx context.Context, points []Point, c *Capture) {
	x := RecordedCapture{Scope: scopeOf(ctx), Points: pointNames(points), Doubts: c.doubts}
	size := 0
	for _, p := range points {
		for _, f := range c.frames[p.String()] {
			size += len(f.Data)
			x.Frames = append(x.Frames, f)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.room(size) {
		r.Captures = append(r.Captures, x)
	}
}

func pointNames(points []Point) []string {
	names := make([]string, len(points))
	for i, p := range points {
		names[i] = p.String() + " " + p.Filter.String()
	}
	return names
}
