package kind

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// holder is this process, as the value of a label that it puts on a node for a
// while. A later command knows by it whether somebody still minds the label.
func holder() (string, error) {
	pid := os.Getpid()
	began, err := startOf(pid)
	if err != nil {
		return "", fmt.Errorf("find out when this process began: %w", err)
	}
	return fmt.Sprintf("overlab-%d-%s", pid, began), nil
}

var holderForm = regexp.MustCompile(`^overlab-([0-9]+)-([0-9]+)$`)

// abandoned reports whether a label's value is that of a process that has ended.
// Others are a person's own.
func abandoned(value string) bool {
	m := holderForm.FindStringSubmatch(value)
	if m == nil {
		return false
	}
	pid, err := strconv.Atoi(m[1])
	if err != nil {
		return false
	}
	began, err := startOf(pid)
	return err != nil || began != m[2]
}

// startOf is when a process began, in clock ticks since this machine did
// (proc_pid_stat(5), field 22): a number is another process's some day.
func startOf(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The second field is a name, which may have blanks, in parentheses.
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	fields := strings.Fields(rest)
	const from3 = 22 - 3
	if len(fields) <= from3 {
		return "", fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(fields))
	}
	return fields[from3], nil
}

// releaseAbandoned takes from the nodes what commands that were killed have held:
// agents come back, and pods may come again.
func (l *Lab) releaseAbandoned(ctx context.Context, nodes []corev1.Node) error {
	for i := range nodes {
		n := &nodes[i]
		if abandoned(n.Labels[cordonedBy]) {
			if err := uncordon(ctx, l.master(), n.Name); err != nil {
				return err
			}
		}
		if !abandoned(n.Labels[noAgent]) {
			continue
		}
		if err := unlabel(ctx, l.master(), n.Name, noAgent); err != nil {
			return err
		}
		for node, host := range l.on {
			if host == n.Name {
				// One that does not come is told of by what looks at it.
				waiting, cancel := context.WithTimeout(ctx, meshTimeout)
				_ = l.awaitAgent(waiting, node, 0)
				cancel()
			}
		}
	}
	return nil
}

func label(ctx context.Context, master, host, key, value string) error {
	_, err := kubectl(ctx, master, nil, "label", "node", host, "--overwrite", key+"="+value)
	return err
}

func unlabel(ctx context.Context, master, host, key string) error {
	_, err := kubectl(ctx, master, nil, "label", "node", host, key+"-")
	return err
}
