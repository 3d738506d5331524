package standin

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/topology"
)

// errKubectl is the answer to everything that the stand-in cannot do.
var errKubectl = errors.New(`this is overlab's stand-in for kubectl: no Kubernetes runs in this lab. It knows
  kubectl get pods [NAME…] [-o wide] [-A]
  kubectl get nodes [NAME…] [-o wide]
  kubectl exec POD [-it] -- COMMAND
  kubectl version`)

func (w *World) kubectl(args []string) error {
	if len(args) == 0 {
		return errKubectl
	}
	switch verb, rest := args[0], args[1:]; verb {
	case "get":
		return w.get(rest)
	case "exec":
		return w.exec(rest)
	case "version":
		_, err := fmt.Fprintln(w.Out, "overlab's stand-in for kubectl, answering from the plan of lab "+w.Plan.Name+"; no Kubernetes runs here")
		return err
	default:
		return fmt.Errorf("no %q here; %w", verb, errKubectl)
	}
}

// getFlags are the flags of kubectl get.
type getFlags struct {
	wide, all bool
	namespace string
	names     []string
}

func parseGet(args []string) (kind string, f getFlags, err error) {
	f.namespace = "default"
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, value, has := strings.Cut(arg, "=")
		take := func() {
			if !has && len(args) > 0 {
				value, args = args[0], args[1:]
			}
		}
		switch {
		case arg == "-owide":
			f.wide = true
		case name == "-o" || name == "--output":
			if take(); value != "wide" {
				return "", f, fmt.Errorf("no output format %q here, only wide; %w", value, errKubectl)
			}
			f.wide = true
		case name == "-n" || name == "--namespace":
			take()
			f.namespace = value
		case arg == "-A" || arg == "--all-namespaces":
			f.all = true
		case strings.HasPrefix(arg, "-"):
			return "", f, fmt.Errorf("no flag %s here; %w", arg, errKubectl)
		case kind == "":
			kind = arg
		default:
			f.names = append(f.names, arg)
		}
	}
	return kind, f, nil
}

func (w *World) get(args []string) error {
	kind, f, err := parseGet(args)
	if err != nil {
		return err
	}
	switch kind {
	case "pods", "pod", "po":
		return w.getPods(f)
	case "nodes", "node", "no":
		return w.getNodes(f)
	default:
		return fmt.Errorf("no resource type %q here; %w", kind, errKubectl)
	}
}

func (w *World) getPods(f getFlags) error {
	pods := make([]*topology.Pod, 0, len(w.Plan.Pods))
	for i := range w.Plan.Pods {
		pods = append(pods, &w.Plan.Pods[i])
	}
	if len(f.names) > 0 {
		pods = pods[:0]
		for _, name := range f.names {
			p := w.pod(name)
			if p == nil {
				return w.noPod(name)
			}
			pods = append(pods, p)
		}
	}
	if f.namespace != "default" && !f.all {
		_, err := fmt.Fprintf(w.ErrOut, "No resources found in %s namespace.\n", f.namespace)
		return err
	}
	rows := [][]string{{"NAME", "READY", "STATUS", "RESTARTS", "AGE"}}
	for _, p := range pods {
		rows = append(rows, []string{p.Name, "1/1", "Running", "0", age(w.Age)})
	}
	if f.wide {
		rows[0] = append(rows[0], "IP", "NODE", "NOMINATED NODE", "READINESS GATES")
		for i, p := range pods {
			rows[i+1] = append(rows[i+1], p.Address.Addr().String(), p.Node, "<none>", "<none>")
		}
	}
	if f.all {
		for i := range rows {
			rows[i] = slices.Insert(rows[i], 0, "default")
		}
		rows[0][0] = "NAMESPACE"
	}
	return table(w.Out, rows)
}

func (w *World) getNodes(f getFlags) error {
	nodes := make([]*topology.Node, 0, len(w.Plan.Nodes))
	for i := range w.Plan.Nodes {
		nodes = append(nodes, &w.Plan.Nodes[i])
	}
	if len(f.names) > 0 {
		nodes = nodes[:0]
		for _, name := range f.names {
			n := w.Plan.Node(name)
			if n == nil {
				return fmt.Errorf("no node %q in lab %s", name, w.Plan.Name)
			}
			nodes = append(nodes, n)
		}
	}
	rows := [][]string{{"NAME", "STATUS", "ROLES", "AGE", "VERSION"}}
	for _, n := range nodes {
		status, role := "NotReady", "<none>"
		if w.Ready(n.Name) {
			status = "Ready"
		}
		if n.Role == topology.ControlPlane {
			role = string(n.Role)
		}
		rows = append(rows, []string{n.Name, status, role, age(w.Age), "overlab"})
	}
	if f.wide {
		rows[0] = append(rows[0], "INTERNAL-IP", "EXTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME")
		for i, n := range nodes {
			rows[i+1] = append(rows[i+1], n.Underlay().Address.Addr().String(), "<none>", "network namespace", kernelRelease(), "<none>")
		}
	}
	return table(w.Out, rows)
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "<unknown>"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// exec enters a pod. Both of kubectl's forms are understood: with -- in front
// of the command, and the older one without.
func (w *World) exec(args []string) error {
	var name string
	var stdin bool
	for len(args) > 0 {
		arg := args[0]
		if arg == "--" {
			args = args[1:]
			break
		}
		if !strings.HasPrefix(arg, "-") {
			if name != "" {
				break // the command
			}
			name, args = strings.TrimPrefix(arg, "pod/"), args[1:]
			continue
		}
		args = args[1:]
		switch arg {
		case "-i", "--stdin", "-it", "-ti":
			stdin = true
		case "-t", "--tty":
		case "-c", "--container", "-n", "--namespace":
			args = args[min(1, len(args)):] // a lab's pods have one of each
		default:
			return fmt.Errorf("no flag %s here; %w", arg, errKubectl)
		}
	}
	if name == "" || len(args) == 0 {
		return fmt.Errorf("exec needs a pod and a command; %w", errKubectl)
	}
	p := w.pod(name)
	if p == nil {
		return w.noPod(name)
	}
	return w.Enter(p, args, stdin)
}

func (w *World) noPod(name string) error {
	return fmt.Errorf("pods %q not found; lab %s has %s", name, w.Plan.Name, w.names())
}

// table prints rows as kubectl does.
func table(out io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(out, 6, 4, 3, ' ', 0)
	for _, r := range rows {
		if _, err := fmt.Fprintln(t, strings.Join(r, "\t")); err != nil {
			return err
		}
	}
	return t.Flush()
}

// age is a duration as kubectl shows it.
func age(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < 10*time.Minute:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 3*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	default:
		return strconv.Itoa(int(d.Hours()/24)) + "d"
	}
}
