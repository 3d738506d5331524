package cni

import (
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
)

// Error codes of this plugin's own: the CNI specification leaves 100 and
// above to plugins.
const (
	// ErrAddress says that no address could be reserved: all are taken, or
	// the one that was asked for.
	ErrAddress uint = 100 + iota
	// ErrKernel says that the kernel refused a link, address or route.
	ErrKernel
	// ErrDamaged is CHECK's verdict that a pod's network is not as ADD left it.
	ErrDamaged
	// ErrHostPort says that a port of the node leads to another pod already.
	ErrHostPort
)

// failure is an error with a code of the CNI specification: errors.As finds
// the *types.Error, errors.Is the cause.
type failure struct {
	coded *types.Error
	cause error
}

func (f *failure) Error() string { return f.coded.Msg }

func (f *failure) Unwrap() []error { return []error{f.coded, f.cause} }

// coded says what failed, why, and with which code. The code of a cause that
// has one already wins, being closer to the fault.
func coded(code uint, what string, cause error) error {
	var e *types.Error
	if errors.As(cause, &e) {
		code = e.Code
	}
	return &failure{types.NewError(code, fmt.Sprintf("%s: %v", what, cause), ""), cause}
}

// undo collects what takes back each step of an ADD.
type undo []func() error

func (u *undo) push(f func() error) { *u = append(*u, f) }

// run takes the steps back, the last one first, and all of them.
func (u undo) run() error {
	var errs []error
	for _, f := range slices.Backward(u) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}
