// Package match has gomega matchers for what probes and captures return: TTLs,
// MTUs, links, routes, neighbours, forwarding entries and encapsulated
// packets. Their failure messages say what was expected and what was seen, in
// the words of ping, ip, bridge and tcpdump.
package match

import (
	"fmt"

	"github.com/onsi/gomega/types"
)

// Explainer is a matcher that can tell apart what it expected and what it
// saw. Every matcher of this package is one.
type Explainer interface {
	types.GomegaMatcher
	// Explain returns both in a few words each. It may only be called with
	// what Match took.
	Explain(actual any) (expected, seen string)
}

// of is a matcher on a value of type T or a pointer to one.
type of[T any] struct {
	expected string
	ok       func(*T) bool
	seen     func(*T) string
}

func (m of[T]) value(actual any) (*T, error) {
	switch v := actual.(type) {
	case *T:
		return v, nil
	case T:
		return &v, nil
	}
	var zero T
	return nil, fmt.Errorf("%T given to a matcher that takes %T", actual, zero)
}

// Match implements types.GomegaMatcher. A nil pointer never matches.
func (m of[T]) Match(actual any) (bool, error) {
	v, err := m.value(actual)
	if err != nil {
		return false, err
	}
	return v != nil && m.ok(v), nil
}

// Explain implements Explainer.
func (m of[T]) Explain(actual any) (expected, seen string) {
	v, err := m.value(actual)
	switch {
	case err != nil:
		return m.expected, err.Error()
	case v == nil:
		return m.expected, "nothing of the kind"
	}
	return m.expected, m.seen(v)
}

// FailureMessage implements types.GomegaMatcher.
func (m of[T]) FailureMessage(actual any) string {
	expected, seen := m.Explain(actual)
	return fmt.Sprintf("expected %s\nseen     %s", expected, seen)
}

// NegatedFailureMessage implements types.GomegaMatcher.
func (m of[T]) NegatedFailureMessage(actual any) string {
	_, seen := m.Explain(actual)
	return fmt.Sprintf("expected anything but %s\nseen     %s", m.expected, seen)
}
