package checks_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
)

// evidenceOf is the report of a lab, as it is read back from a folder in which
// change has done something.
func evidenceOf(t *testing.T, r *suite.Results, change func(dir string)) *suite.Results {
	t.Helper()
	dir := t.TempDir()
	if _, err := report.Evidence(dir, r); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(dir)
	}
	out, err := report.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// standings are the checks of a standing.
func standings(t *testing.T, r *suite.Results, s suite.Standing) []string {
	t.Helper()
	v, err := catalogue(t).Verify(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range v.Checks {
		if c.Standing == s {
			ids = append(ids, c.ID)
		}
		if c.Standing == suite.Contradicted {
			t.Logf("%s: reported %s, replayed %s: %s %v", c.ID, c.Reported, c.Replayed, c.Reason, c.Findings)
		}
	}
	return ids
}

// edit replaces text in a file of an evidence folder.
func edit(t *testing.T, path, old, replacement string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(old)) {
		t.Fatalf("%s has no %q", path, old)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(b, []byte(old), []byte(replacement)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestVerify: verdicts follow from the evidence, and from no other.
//
//	master-pod-1, -2    node-1-pod-1, -2
//	   cni0                cni0
//	 flannel.1           flannel.1
//	   ens3 +--- lan ---+ ens3
func TestVerify(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 2, 1500))
	only := []string{"NM-0[12]", "TTL", "DP-0[1-4]", "CP-0[1-3]", "WF", "MTU-0[12]"}
	sound := run(t, lab, suite.Options{}, only...)
	allPass(t, sound)

	t.Run("sound", func(t *testing.T) {
		for _, s := range []suite.Standing{suite.Contradicted, suite.NotReplayable, suite.NotJudged} {
			if ids := standings(t, evidenceOf(t, sound, nil), s); len(ids) > 0 {
				t.Errorf("%s: %v", s, ids)
			}
		}
	})
	t.Run("a verdict that was changed", func(t *testing.T) {
		r := evidenceOf(t, sound, nil)
		i := slices.IndexFunc(r.Results, func(x suite.Result) bool { return x.ID == "TTL-03" })
		r.Results[i].Verdict = suite.Fail
		if ids := standings(t, r, suite.Contradicted); !slices.Equal(ids, []string{"TTL-03"}) {
			t.Error(ids)
		}
	})
	t.Run("a measurement that was changed", func(t *testing.T) {
		r := evidenceOf(t, sound, func(dir string) {
			edit(t, filepath.Join(dir, "exchanges.jsonl"), `"ttl":62`, `"ttl":61`)
		})
		if ids := standings(t, r, suite.Contradicted); !slices.Contains(ids, "TTL-03") || slices.Contains(ids, "TTL-01") {
			t.Error(ids)
		}
	})
	t.Run("frames that are not there", func(t *testing.T) {
		r := evidenceOf(t, sound, nil)
		for i := range r.Record.Captures {
			r.Record.Captures[i].Frames = nil
		}
		if ids := standings(t, r, suite.Contradicted); !slices.Contains(ids, "WF-01") || !slices.Contains(ids, "WF-02") {
			t.Error(ids)
		}
	})
	t.Run("a cited frame that is another", func(t *testing.T) {
		r := evidenceOf(t, sound, nil)
		r.Frames[0].Captured = r.Frames[1].Captured
		v, err := catalogue(t).Verify(t.Context(), r)
		if err != nil || len(v.WrongFrames) != 1 || v.ExitCode() != 1 {
			t.Errorf("%v, %v", v.WrongFrames, err)
		}
	})
	t.Run("measurements that are not there", func(t *testing.T) {
		r := evidenceOf(t, sound, nil)
		r.Record.Exchanges = slices.DeleteFunc(r.Record.Exchanges, func(x suite.Exchange) bool { return x.Scope == "MTU-01" })
		if ids := standings(t, r, suite.NotReplayable); !slices.Equal(ids, []string{"MTU-01"}) {
			t.Error(ids)
		}
	})
	t.Run("no record", func(t *testing.T) {
		r := evidenceOf(t, sound, nil)
		r.Record = nil
		if _, err := catalogue(t).Verify(t.Context(), r); err == nil || !strings.Contains(err.Error(), "--evidence") {
			t.Error(err)
		}
	})
	t.Run("broken lab", func(t *testing.T) {
		lab.Exec(t, "master", "ip", "link", "set", "flannel.1", "down")
		broken := run(t, lab, suite.Options{}, only...)
		if broken.Count(suite.Fail) < 5 {
			t.Errorf("%d checks fail", broken.Count(suite.Fail))
		}
		if ids := standings(t, evidenceOf(t, broken, nil), suite.Holds); len(ids) != len(broken.Results) {
			t.Errorf("%d of %d verdicts hold: %v", len(ids), len(broken.Results), ids)
		}
	})
}
