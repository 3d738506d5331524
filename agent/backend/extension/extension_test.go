package extension

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
)

var eth0 = backend.Underlay{Name: "eth0", MTU: 1500, PublicIP: netip.MustParseAddr("172.16.1.1")}

func newExtension(t *testing.T, object map[string]any) *Extension {
	t.Helper()
	object["Type"] = "extension"
	raw, err := json.Marshal(map[string]any{"Network": "10.244.0.0/16", "Backend": object})
	if err != nil {
		t.Fatal(err)
	}
	c, err := lease.ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(c, eth0)
	if err != nil {
		t.Fatal(err)
	}
	return b.(*Extension)
}

func peer(t *testing.T, key, ip, kind, data string) lease.Lease {
	t.Helper()
	k, err := lease.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return lease.Lease{Key: k, Attrs: lease.Attrs{PublicIP: netip.MustParseAddr(ip), BackendType: kind, BackendData: []byte(data)}}
}

func TestConfiguration(t *testing.T) {
	e := newExtension(t, map[string]any{})
	if e.Type() != "extension" || e.MTU() != 1500 || e.Data() != nil || len(e.Scope().Devices) > 0 {
		t.Errorf("%s, MTU %d, data %s, scope %v", e.Type(), e.MTU(), e.Data(), e.Scope())
	}
	if err := e.Prepare(t.Context()); err != nil || e.Data() != nil {
		t.Errorf("no command: %v, data %s", err, e.Data())
	}
	if e := newExtension(t, map[string]any{"MTU": 1400}); e.MTU() != 1400 {
		t.Errorf("MTU %d", e.MTU())
	}
	for object, want := range map[string]string{`{"Type":"extension","MTU":67}`: "fewer than IPv4's 68", `{"Type":"extension","SubnetAddCommand":1}`: "read the extension backend's configuration"} {
		if _, err := New(&lease.Config{Backend: json.RawMessage(object)}, eth0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", object, err)
		}
	}
}

// TestPrepare: the commands are for a shell, and stdout alone is the data.
func TestPrepare(t *testing.T) {
	e := newExtension(t, map[string]any{"PreStartupCommand": `export A=1; echo noise >&2; echo "$A $(echo two)" | sed s/two/2/`})
	if err := e.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := string(e.Data()); got != `"1 2"` {
		t.Errorf("BackendData is %s", got)
	}
	e = newExtension(t, map[string]any{"PreStartupCommand": "echo first; echo wrong >&2; exit 3"})
	err := e.Prepare(t.Context())
	for _, want := range []string{"PreStartupCommand: exit status 3", "wrong\nfirst", `"echo first; echo wrong >&2; exit 3"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

// TestFollow: what the commands see, and when they run.
func TestFollow(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	note := func(verb string) string {
		return `echo "` + verb + ` $NETWORK|$SUBNET|$IPV6SUBNET|$PUBLIC_IP|$PUBLIC_IPV6 $(cat)" >> ` + log
	}
	e := newExtension(t, map[string]any{
		"PostStartupCommand": note("start"), "SubnetAddCommand": note("add"), "SubnetRemoveCommand": note("remove"),
	})
	own := peer(t, "10.244.1.0-24", "172.16.1.1", Type, `"own"`)
	expect := func(what string, all []lease.Lease, want ...string) {
		t.Helper()
		if err := e.Follow(t.Context(), own, all); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		raw, err := os.ReadFile(log)
		if err != nil && len(want) > 0 {
			t.Fatal(err)
		}
		if err == nil {
			if err := os.Remove(log); err != nil {
				t.Fatal(err)
			}
		}
		got := slices.DeleteFunc(strings.Split(string(raw), "\n"), func(s string) bool { return s == "" })
		if d := cmp.Diff(want, got, cmp.Transformer("nil", func(s []string) []string { return append([]string{}, s...) })); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	two, three := peer(t, "10.244.2.0-24", "172.16.1.2", Type, `"two"`), peer(t, "10.244.3.0-24", "172.16.1.3", Type, "")
	foreign := peer(t, "10.244.4.0-24", "172.16.1.4", "vxlan", `{"VNI":1}`)
	broken := peer(t, "10.244.5.0-24", "172.16.1.5", Type, `{"VNI":1}`)
	reserved := peer(t, "10.244.6.0-24", "172.16.1.6", "", "")
	expect("the start", []lease.Lease{own, two, foreign, broken, reserved},
		"start 10.244.0.0/16|10.244.1.0/24||172.16.1.1| ", "add |10.244.2.0/24||172.16.1.2| two")
	expect("nothing new", []lease.Lease{own, two})
	expect("one more", []lease.Lease{own, two, three}, "add |10.244.3.0/24||172.16.1.3| ")
	changed := peer(t, "10.244.2.0-24", "172.16.1.9", Type, `"new"`)
	expect("one changes", []lease.Lease{own, changed, three},
		"remove |10.244.2.0/24||172.16.1.2| two", "add |10.244.2.0/24||172.16.1.9| new")
	expect("one goes", []lease.Lease{own, changed}, "remove |10.244.3.0/24||172.16.1.3| ")

	want, problems := e.Desired(own, []lease.Lease{own, two, foreign, broken, reserved})
	if changes := datapath.Diff(want, datapath.NewState()); len(changes) > 0 {
		t.Error(changes)
	}
	if got := strings.Join(problems, "\n"); len(problems) != 2 || !strings.Contains(got, "10.244.4.0-24: it is of the backend vxlan") || !strings.Contains(got, `10.244.5.0-24: BackendData {"VNI":1} is not a JSON string`) {
		t.Error(got)
	}
}

// TestFailure: a failing command is named, does not stop the others, and is
// tried again.
func TestFailure(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "flag")
	e := newExtension(t, map[string]any{"SubnetAddCommand": `case $SUBNET in 10.244.2.*) cat ` + flag + `;; esac`, "SubnetRemoveCommand": "exit 4"})
	own := peer(t, "10.244.1.0-24", "172.16.1.1", Type, "")
	all := []lease.Lease{own, peer(t, "10.244.2.0-24", "172.16.1.2", Type, ""), peer(t, "10.244.3.0-24", "172.16.1.3", Type, "")}
	err := e.Follow(t.Context(), own, all)
	if err == nil || !strings.HasPrefix(err.Error(), "SubnetAddCommand for 10.244.2.0-24: exit status 1: cat: ") || strings.Contains(err.Error(), "10.244.3.0") {
		t.Errorf("error: %v", err)
	}
	if len(e.served) != 1 {
		t.Errorf("served: %v", e.served)
	}
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Follow(t.Context(), own, all); err != nil || len(e.served) != 2 {
		t.Errorf("again: %v, served %v", err, e.served)
	}
	err = e.Follow(t.Context(), own, all[:1])
	if err == nil || !strings.Contains(err.Error(), "SubnetRemoveCommand for 10.244.2.0-24: exit status 4: it printed nothing") || len(e.served) != 2 {
		t.Errorf("removal: %v, served %v", err, e.served)
	}
}

// TestInterrupted: a command that hangs does not keep the agent.
func TestInterrupted(t *testing.T) {
	e := newExtension(t, map[string]any{"PostStartupCommand": "sleep 1000 | cat"})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := e.Follow(ctx, peer(t, "10.244.1.0-24", "172.16.1.1", Type, ""), nil); err == nil {
		t.Error("no error")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
