package standin

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlab/overlab/topology"
)

// Two nodes with a pod each, and a third pod whose name begins as another's.
//
//	web, web-1 on n1        db on n2
const lab = `
apiVersion: overlab/v1alpha1
kind: Lab
metadata: {name: t}
spec:
  nodes: [{name: n1, role: control-plane}, {name: n2}]
  pods:
  - {name: web, node: n1, address: 10.244.0.5, mac: "02:00:00:00:00:05"}
  - {name: web-1, node: n1, address: 10.244.0.6}
  - {name: db, node: n2, address: 10.244.1.7}
`

type entered struct {
	pod   string
	argv  []string
	stdin bool
}

// world is a World on a host of the lab, three minutes old; only n1 is ready.
func world(t *testing.T, host string) (*World, *entered) {
	t.Helper()
	spec, err := topology.Parse("lab.yaml", []byte(lab))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := spec.Plan()
	if err != nil {
		t.Fatal(err)
	}
	e := new(entered)
	return &World{
		Plan: plan, Host: host, Age: 3*time.Minute + 5*time.Second,
		Ready: func(node string) bool { return node == "n1" },
		Enter: func(p *topology.Pod, argv []string, stdin bool) error {
			*e = entered{p.Name, argv, stdin}
			return nil
		},
		Out: new(bytes.Buffer), ErrOut: new(bytes.Buffer),
	}, e
}

// fields are the words of each line.
func fields(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

func TestAnswers(t *testing.T) {
	w, _ := world(t, "n1")
	web := w.Plan.Pod("web")
	name := containerName(web)
	for _, x := range []struct {
		command string
		want    []string
	}{
		{"kubectl get pods", []string{"NAME READY STATUS RESTARTS AGE", "web 1/1 Running 0 3m5s", "web-1 1/1 Running 0 3m5s", "db 1/1 Running 0 3m5s"}},
		{"kubectl get pod web-55d8cb9bb9-abcde -o wide", []string{
			"NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES",
			"web 1/1 Running 0 3m5s 10.244.0.5 n1 <none> <none>",
		}},
		{"kubectl get po -A db", []string{"NAMESPACE NAME READY STATUS RESTARTS AGE", "default db 1/1 Running 0 3m5s"}},
		{"kubectl get nodes", []string{"NAME STATUS ROLES AGE VERSION", "n1 Ready control-plane 3m5s overlab", "n2 NotReady <none> 3m5s overlab"}},
		{"docker ps -q", []string{web.ContainerID[:12], w.Plan.Pod("web-1").ContainerID[:12]}},
		{"docker ps --format {{.Names}}", []string{name, containerName(w.Plan.Pod("web-1"))}},
		{"docker inspect web --format {{.NetworkSettings.SandboxKey}}", []string{"/var/run/docker/netns/" + web.SandboxID[:12]}},
		{"docker inspect " + name + " -f {{.Id}}", []string{web.ContainerID}},
		{"docker inspect k8s_POD_web-f949f858-trrn9_default_5ecd1edb_0 --format={{.NetworkSettings.SandboxID}}", []string{web.SandboxID}},
		{"docker inspect " + web.ContainerID[:6] + " --format={{.Config.Hostname}}", []string{"web"}},
	} {
		out := new(bytes.Buffer)
		w.Out = out
		if code := w.Run(strings.Fields(x.command)); code != 0 {
			t.Errorf("%s: exit code %d: %s", x.command, code, w.ErrOut)
		}
		if got := fields(out.String()); !slices.Equal(got, x.want) {
			t.Errorf("%s:\n%s\nwant\n%s", x.command, strings.Join(got, "\n"), strings.Join(x.want, "\n"))
		}
	}
}

// The lines that the articles filter out of docker inspect look as docker's.
func TestInspectLayout(t *testing.T) {
	w, _ := world(t, "n1")
	if code := w.Run([]string{"docker", "inspect", "web"}); code != 0 {
		t.Fatal(w.ErrOut)
	}
	want := `            "SandboxKey": "/var/run/docker/netns/` + w.Plan.Pod("web").SandboxID[:12] + `",` + "\n"
	if out := w.Out.(*bytes.Buffer).String(); !strings.Contains(out, want) {
		t.Errorf("no line %q in\n%s", want, out)
	}
}

func TestTableOfNames(t *testing.T) {
	w, _ := world(t, "n2")
	if code := w.Run([]string{"docker", "ps", "--format=table {{.Names}}"}); code != 0 {
		t.Fatal(w.ErrOut)
	}
	want := "NAMES\n" + containerName(w.Plan.Pod("db")) + "\n"
	if got := w.Out.(*bytes.Buffer).String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestRefusals(t *testing.T) {
	for command, want := range map[string]string{
		"kubectl":                         "no Kubernetes runs",
		"kubectl apply -f x":              `no "apply" here; this is overlab's stand-in`,
		"kubectl get services":            `no resource type "services"`,
		"kubectl get pods -o yaml":        "only wide",
		"kubectl get pods nope":           `pods "nope" not found; lab t has web, web-1, db`,
		"kubectl exec nope -- ls":         `pods "nope" not found`,
		"kubectl exec web":                "needs a pod and a command",
		"kubectl exec --privileged web":   "no flag --privileged",
		"docker run x":                    "no container engine runs",
		"docker inspect db":               "no such container on n1: db",
		"docker inspect":                  "needs a container",
		"docker inspect web -f {{.Nope}":  "--format",
		"docker inspect web -f {{.Nope}}": "--format",
		"podman ps":                       "overlab stands in for docker, etcdctl, kubectl, tcpdump",
	} {
		w, _ := world(t, "n1")
		code := w.Run(strings.Fields(command))
		if got := w.ErrOut.(*bytes.Buffer).String(); code != 1 || !strings.Contains(got, want) {
			t.Errorf("%s: exit code %d, %q; want 1 and %q", command, code, got, want)
		}
	}
	w, _ := world(t, "web")
	if code := w.Run([]string{"docker", "ps"}); code != 1 || !strings.Contains(w.ErrOut.(*bytes.Buffer).String(), "web is none") {
		t.Errorf("docker in a pod: exit code %d, %s", code, w.ErrOut)
	}
}

func TestExec(t *testing.T) {
	for command, want := range map[string]entered{
		"kubectl exec web -- ip -d link":                    {"web", []string{"ip", "-d", "link"}, false},
		"kubectl exec --stdin --tty db -- ping -c1 1.1.1.1": {"db", []string{"ping", "-c1", "1.1.1.1"}, true},
		"kubectl exec web-1-f949f858-trrn9 -it bash":        {"web-1", []string{"bash"}, true},
		"kubectl exec web-f949f858-trrn9 ls -la":            {"web", []string{"ls", "-la"}, false},
		"kubectl exec -it -c main pod/web -- sh":            {"web", []string{"sh"}, true},
	} {
		w, got := world(t, "n1")
		if code := w.Run(strings.Fields(command)); code != 0 {
			t.Errorf("%s: exit code %d: %s", command, code, w.ErrOut)
		}
		if got.pod != want.pod || !slices.Equal(got.argv, want.argv) || got.stdin != want.stdin {
			t.Errorf("%s entered %+v, want %+v", command, *got, want)
		}
	}
	w, _ := world(t, "n1")
	w.Enter = func(*topology.Pod, []string, bool) error { return errExit{errors.New("no such program"), 127} }
	if code := w.Run([]string{"kubectl", "exec", "web", "--", "nope"}); code != 127 {
		t.Errorf("exit code %d, want that of the error, 127", code)
	}
}

func TestAges(t *testing.T) {
	for d, want := range map[time.Duration][2]string{
		0:                {"0s", "0 seconds"},
		90 * time.Second: {"90s", "1 minute"},
		time.Hour:        {"60m", "1 hour"},
		19 * time.Hour:   {"19h", "19 hours"},
		72 * time.Hour:   {"3d", "3 days"},
	} {
		if got := [2]string{age(d), long(d)}; got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

func TestHandles(t *testing.T) {
	for name, want := range map[string]bool{"/run/overlab/bin/kubectl": true, "docker": true, "tcpdump": true, "overlab": false, "": false} {
		if got := Handles(name); got != want {
			t.Errorf("Handles(%q) = %t", name, got)
		}
	}
}
