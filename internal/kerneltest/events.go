package main

import (
	"encoding/json"
	"errors"
	"io"
)

// lackError says that the machine lacks what the other kernel needs.
type lackError struct{ error }

// event is one of go test -json (go doc test2json).
type event struct {
	Action, Package string
	Test            string `json:",omitempty"`
	Output          string `json:",omitempty"`
}

// skipAll counts every suite as skipped, and says why.
func skipAll(out io.Writer, why error) error {
	w := json.NewEncoder(out)
	var errs []error
	for _, s := range suites() {
		e := event{Action: "output", Package: module + s.pkg, Test: s.run, Output: "SKIPPED, NOT TESTED: " + why.Error() + "\n"}
		errs = append(errs, w.Encode(e))
		e.Action, e.Output = "skip", ""
		errs = append(errs, w.Encode(e))
	}
	return errors.Join(errs...)
}

// fail makes whoever reads the events know that they are not all.
func fail(out io.Writer, why error) error {
	w := json.NewEncoder(out)
	const self = module + "internal/kerneltest"
	return errors.Join(
		w.Encode(event{Action: "output", Package: self, Output: why.Error() + "\n"}),
		w.Encode(event{Action: "fail", Package: self}))
}
