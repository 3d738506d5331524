package main

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestImageAgent: the same programs give the same image, into a file or on
// standard output, and a failure leaves no file.
func TestImageAgent(t *testing.T) {
	o := newOverlab(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "agent.tar")
	if got := strings.TrimSpace(o.must(t, "image", "agent", "-f", file)); got != file {
		t.Errorf("printed %q, want %s", got, file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out := o.must(t, "image", "agent", "-f", "-"); !bytes.Equal(b, []byte(out)) {
		t.Error("two images of the same programs differ")
	}
	if r := o.run(t, "image", "agent", "-f", filepath.Join(dir, "nowhere", "agent.tar")); r.code != 2 || !strings.Contains(r.err, "write the agent's image") {
		t.Errorf("into a folder that is not there: %s", r)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v lie in the folder (%v)", left, err)
	}
}

// TestUnknownProvider: a provider that this build has not is refused by name.
func TestUnknownProvider(t *testing.T) {
	o := newOverlab(t)
	for flag, want := range map[string]string{
		"vagrant": "spec.provider: vagrant is not in this build, which has netns and kind",
		"cloud":   "--provider: ",
	} {
		if r := o.run(t, "up", "--provider", flag); r.code != 2 || !strings.Contains(r.err, want) {
			t.Errorf("--provider %s: %s; want %q", flag, r, want)
		}
	}
}

// hub is a registry that answers with a status, or with none at all.
type hub int

func (h hub) RoundTrip(r *http.Request) (*http.Response, error) {
	if h == 0 || r.URL.Path != "/v2/" {
		return nil, errors.New("no route to host")
	}
	return &http.Response{StatusCode: int(h), Body: http.NoBody}, nil
}

// A registry that asks for a token is in reach, one that is ill or gone is not.
func TestRegistryAnswers(t *testing.T) {
	for code, want := range map[hub]bool{http.StatusOK: true, http.StatusUnauthorized: true, http.StatusBadGateway: false, 0: false} {
		if got := registryAnswers(t.Context(), code); got != want {
			t.Errorf("status %d: %t", code, got)
		}
	}
}
