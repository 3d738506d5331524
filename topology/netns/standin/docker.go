package standin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/overlab/overlab/topology"
)

// errDocker is the answer to everything that the stand-in cannot do.
var errDocker = errors.New(`this is overlab's stand-in for docker: no container engine runs in this lab. It knows
  docker ps [-q] [--no-trunc] [--format FORMAT]
  docker inspect CONTAINER… [--format FORMAT]`)

// shortestID is how many digits of an id a name has at least.
const shortestID = 4

// attempt is the last part of a container's name: how often the kubelet had
// made it again.
const attempt = 0

func (w *World) docker(args []string) error {
	if len(args) == 0 {
		return errDocker
	}
	if w.Plan.Node(w.Host) == nil {
		return fmt.Errorf("docker belongs to the nodes, and %s is none; %w", w.Host, errDocker)
	}
	verb := args[0]
	f, err := parseDocker(args[1:])
	if err != nil {
		return err
	}
	switch verb {
	case "ps":
		return w.ps(f)
	case "inspect":
		return w.inspect(f)
	default:
		return fmt.Errorf("no %q here; %w", verb, errDocker)
	}
}

type dockerFlags struct {
	format         string
	quiet, noTrunc bool
	names          []string
}

func parseDocker(args []string) (dockerFlags, error) {
	var f dockerFlags
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, value, has := strings.Cut(arg, "=")
		switch {
		case name == "--format" || name == "-f":
			if !has && len(args) > 0 {
				value, args = args[0], args[1:]
			}
			f.format = value
		case arg == "-q" || arg == "--quiet":
			f.quiet = true
		case arg == "--no-trunc":
			f.noTrunc = true
		case arg == "-a" || arg == "--all":
		case strings.HasPrefix(arg, "-"):
			return f, fmt.Errorf("no flag %s here; %w", arg, errDocker)
		default:
			f.names = append(f.names, arg)
		}
	}
	return f, nil
}

// container is a line of docker ps; the fields have the names that docker's
// formats use.
type container struct {
	ID, Image, Command, RunningFor, CreatedAt, Status, Ports, Names string
}

// headings are the columns' titles in docker's own words.
var headings = container{"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "CREATED AT", "STATUS", "PORTS", "NAMES"}

const usualColumns = `table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}`

// containerName is the name that the kubelet's docker shim gave to a pod's
// sandbox.
func containerName(p *topology.Pod) string {
	id := p.ContainerID[32:]
	uid := strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:32]}, "-")
	return fmt.Sprintf("k8s_POD_%s_default_%s_%d", p.Name, uid, attempt)
}

func (w *World) ps(f dockerFlags) error {
	switch {
	case len(f.names) > 0:
		return fmt.Errorf("ps takes no %q; %w", f.names[0], errDocker)
	case f.quiet:
		f.format = "{{.ID}}"
	case f.format == "":
		f.format = usualColumns
	}
	format, asTable := strings.CutPrefix(f.format, "table ")
	t, err := parseFormat(format)
	if err != nil {
		return err
	}
	lines := []container{}
	if asTable {
		lines = append(lines, headings)
	}
	for _, p := range w.Plan.PodsOn(w.Host) {
		id := p.ContainerID
		if !f.noTrunc {
			id = id[:12]
		}
		lines = append(lines, container{
			ID: id, Image: "overlab/pod", Command: `"pause"`,
			RunningFor: long(w.Age) + " ago", CreatedAt: w.created(), Status: "Up " + long(w.Age),
			Names: containerName(&p),
		})
	}
	tab := tabwriter.NewWriter(w.Out, 10, 1, 3, ' ', 0)
	for _, l := range lines {
		if err := t.Execute(tab, l); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		if _, err := io.WriteString(tab, "\n"); err != nil {
			return err
		}
	}
	return tab.Flush()
}

func (w *World) created() string {
	return time.Now().Add(-w.Age).UTC().Format("2006-01-02 15:04:05 -0700 MST")
}

// parseFormat reads a format of docker's: a Go template in which \t and \n
// are written out.
func parseFormat(format string) (*template.Template, error) {
	format = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
	t, err := template.New("format").Option("missingkey=error").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
	}).Parse(format)
	if err != nil {
		return nil, fmt.Errorf("--format: %w", err)
	}
	return t, nil
}

// find returns the pod of this node whose container the name means: by the
// docker shim's name, by the pod's, or by the first digits of the id.
func (w *World) find(name string) *topology.Pod {
	wanted := strings.TrimPrefix(name, "/")
	if parts := strings.Split(wanted, "_"); len(parts) >= 3 && parts[0] == "k8s" {
		wanted = parts[2]
	}
	if p := w.pod(wanted); p != nil && p.Node == w.Host {
		return p
	}
	for i := range w.Plan.Pods {
		p := &w.Plan.Pods[i]
		if p.Node == w.Host && len(name) >= shortestID && strings.HasPrefix(p.ContainerID, name) {
			return p
		}
	}
	return nil
}

// description is what docker inspect tells of a container, in docker's own
// words and order.
type description struct {
	ID              string          `json:"Id"`
	Name            string          `json:"Name"`
	Image           string          `json:"Image"`
	Config          config          `json:"Config"`
	NetworkSettings networkSettings `json:"NetworkSettings"`
}

type config struct {
	Hostname string `json:"Hostname"`
}

type networkSettings struct {
	SandboxID  string `json:"SandboxID"`
	SandboxKey string `json:"SandboxKey"`
	IPAddress  string `json:"IPAddress"`
	MacAddress string `json:"MacAddress"`
}

func describe(p *topology.Pod) description {
	return description{
		ID: p.ContainerID, Name: "/" + containerName(p), Image: "overlab/pod",
		Config: config{Hostname: p.Name},
		NetworkSettings: networkSettings{
			SandboxID:  p.SandboxID,
			SandboxKey: "/var/run/docker/netns/" + p.SandboxID[:12],
			IPAddress:  p.Address.Addr().String(), MacAddress: p.MAC.String(),
		},
	}
}

func (w *World) inspect(f dockerFlags) error {
	if len(f.names) == 0 {
		return fmt.Errorf("inspect needs a container; %w", errDocker)
	}
	var all []description
	for _, name := range f.names {
		p := w.find(name)
		if p == nil {
			return fmt.Errorf("no such container on %s: %s (`docker ps` lists them)", w.Host, name)
		}
		all = append(all, describe(p))
	}
	b, err := json.MarshalIndent(all, "", "    ")
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if f.format == "" {
		_, err := fmt.Fprintf(w.Out, "%s\n", b)
		return err
	}
	t, err := parseFormat(f.format)
	if err != nil {
		return err
	}
	// Formats use the JSON's names.
	var objects []any
	if err := json.Unmarshal(b, &objects); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	for _, o := range objects {
		if err := t.Execute(w.Out, o); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		if _, err := fmt.Fprintln(w.Out); err != nil {
			return err
		}
	}
	return nil
}

// long is a duration as docker shows it.
func long(d time.Duration) string {
	count := func(n int, unit string) string {
		if n == 1 {
			return "1 " + unit
		}
		return fmt.Sprintf("%d %ss", n, unit)
	}
	switch {
	case d < time.Minute:
		return count(int(d.Seconds()), "second")
	case d < time.Hour:
		return count(int(d.Minutes()), "minute")
	case d < 48*time.Hour:
		return count(int(d.Hours()), "hour")
	default:
		return count(int(d.Hours()/24), "day")
	}
}
