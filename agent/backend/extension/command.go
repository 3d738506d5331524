package extension

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// command is one of the backend's commands: its key in net-conf.json, and the
// text that the shell gets.
type command struct{ key, text string }

// run runs the command, unless there is none, and returns what it printed on
// stdout, without the white space around it. The error names the command, what
// it was for, and all that it printed.
func (c command) run(ctx context.Context, what string, env []string, stdin string) (string, error) {
	if strings.TrimSpace(c.text) == "" {
		return "", nil
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", c.text)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdin = append(os.Environ(), env...), strings.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// What the shell has started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it left something running that holds its output open
	}
	if err == nil {
		return strings.TrimSpace(stdout.String()), nil
	}
	said := strings.TrimSpace(stderr.String() + stdout.String())
	if said == "" {
		said = "it printed nothing"
	}
	if what != "" {
		what = " for " + what
	}
	return "", fmt.Errorf("%s%s: %w: %s (the command is %q)", c.key, what, err, said, strings.TrimSpace(c.text))
}
