package standin

import (
	"bytes"
	"strings"
	"testing"

	"github.com/overlab/overlab/internal/etcdtest"
)

// TestEtcdctl: what is put is read, listed and deleted, in etcdctl's own forms.
func TestEtcdctl(t *testing.T) {
	w, _ := world(t, "n2")
	out := new(bytes.Buffer)
	w.Out, w.Store = out, etcdtest.Start(t, "127.0.0.1:23790").Endpoint
	for _, c := range []struct {
		args, want string
	}{
		{"put /a/1 one", "OK\n"},
		{"put /a/2 {\"two\":2}", "OK\n"},
		{"get /a/1", "/a/1\none\n"},
		{"get /a", ""},
		{"get --prefix /a", "/a/1\none\n/a/2\n{\"two\":2}\n"},
		{"get /a --prefix --keys-only", "/a/1\n/a/2\n"},
		{"get /a --prefix --print-value-only", "one\n{\"two\":2}\n"},
		{"del /a/3", "0\n"},
		{"put -- --x y", "OK\n"},
		{"get -- --x", "--x\ny\n"},
		{"del --prefix /a", "2\n"},
		{"get --prefix /a", ""},
		{"--endpoints " + w.Store + " get -- --x", "--x\ny\n"},
	} {
		out.Reset()
		if code := w.Run(append([]string{"etcdctl"}, strings.Fields(c.args)...)); code != 0 || out.String() != c.want {
			t.Errorf("etcdctl %s: exit %d, %q, want %q; %s", c.args, code, out, c.want, w.ErrOut)
		}
	}
}

func TestEtcdctlRefusals(t *testing.T) {
	for args, want := range map[string]string{
		"":                  "etcdctl: this is overlab's stand-in for etcdctl",
		"put a":             "etcdctl: this is overlab's stand-in for etcdctl",
		"member list":       "etcdctl: this is overlab's stand-in for etcdctl",
		"get a --rev=3":     "etcdctl: no flag --rev=3 here; this is overlab's stand-in",
		"get a":             `etcdctl: the store of this lab is "kubernetes", not etcd`,
		"watch a --prefixy": "no flag --prefixy here",
	} {
		w, _ := world(t, "n1")
		w.Plan.Store.Type = "kubernetes"
		if code := w.Run(append([]string{"etcdctl"}, strings.Fields(args)...)); code != 1 || !strings.Contains(w.ErrOut.(*bytes.Buffer).String(), want) {
			t.Errorf("etcdctl %s: exit %d, %s, want %q", args, code, w.ErrOut, want)
		}
	}
}
