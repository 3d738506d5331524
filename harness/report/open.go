package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// Open reads a report back: a folder that Evidence wrote, or a single file of
// the forms json and jsonl, which hold no evidence. Of a run that was cut off it
// reads what there is. Parts that are missing are left out; one that cannot be
// read is an error.
func Open(path string) (*suite.Results, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open report: %w", err)
	}
	var r *suite.Results
	if st.IsDir() {
		r, err = openFolder(path)
	} else {
		r, err = openFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open report %s: %w", path, err)
	}
	return r, nil
}

func openFile(path string) (*suite.Results, error) {
	var r *suite.Results
	err := readFile(path, func(in io.Reader) (err error) {
		if strings.HasSuffix(path, ".jsonl") {
			r, err = readLines(in)
		} else {
			r, err = readJSON(in)
		}
		return err
	})
	return r, err
}

func openFolder(dir string) (*suite.Results, error) {
	r, err := openFile(filepath.Join(dir, reportFile))
	if errors.Is(err, fs.ErrNotExist) {
		if r, err = openFile(filepath.Join(dir, StreamFile)); errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("no report is there: it holds neither %s nor %s", reportFile, StreamFile)
		}
	}
	if err != nil {
		return nil, err
	}
	for _, read := range []func(string, *suite.Results) error{openPlan, openFrames, openStates, openRecord, openAttachments} {
		if err := read(dir, r); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return r, nil
}

func openPlan(dir string, r *suite.Results) error {
	return readFile(filepath.Join(dir, planFile), func(in io.Reader) error {
		p := new(topology.Plan)
		if err := json.NewDecoder(in).Decode(p); err != nil {
			return err
		}
		r.Plan = p
		return nil
	})
}

func openFrames(dir string, r *suite.Results) error {
	return readFile(filepath.Join(dir, framesFile), func(in io.Reader) error {
		frames, err := capture.ReadPcapng(in)
		for i := range r.Frames {
			if n := r.Frames[i].Number; n > 0 && n <= len(frames) {
				r.Frames[i].Captured = frames[n-1]
			}
		}
		return err
	})
}

func openStates(dir string, r *suite.Results) error {
	entries, err := os.ReadDir(filepath.Join(dir, stateFolder))
	if err != nil {
		return err
	}
	r.States = map[string]*probe.State{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		err := readFile(filepath.Join(dir, stateFolder, e.Name()), func(in io.Reader) error {
			st := new(probe.State)
			r.States[name] = st
			return json.NewDecoder(in).Decode(st)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func openRecord(dir string, r *suite.Results) error {
	rec := new(suite.Record)
	err := readFile(filepath.Join(dir, exchangesFile), func(in io.Reader) error {
		dec := json.NewDecoder(in)
		for {
			var x suite.Exchange
			err := dec.Decode(&x)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			rec.Exchanges = append(rec.Exchanges, x)
		}
	})
	if err != nil {
		return err
	}
	err = readFile(filepath.Join(dir, capturesFile), func(in io.Reader) error {
		return json.NewDecoder(in).Decode(&rec.Captures)
	})
	if err != nil {
		return err
	}
	for i := range rec.Captures {
		err := readFile(filepath.Join(dir, captureName(i)), func(in io.Reader) (err error) {
			rec.Captures[i].Frames, err = capture.ReadPcapng(in)
			return err
		})
		if err != nil {
			return err
		}
	}
	r.Record = rec
	return nil
}

func openAttachments(dir string, r *suite.Results) error {
	for i := range r.Attachments {
		a := &r.Attachments[i]
		data, err := os.ReadFile(filepath.Join(dir, attachFolder, filepath.Base(a.File)))
		if err != nil {
			return err
		}
		a.Data = data
	}
	return nil
}

// readFile reads a file; the error names it.
func readFile(path string, read func(io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // it is only read
	if err := read(f); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}
