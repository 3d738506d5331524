package kind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// docker runs the docker program and returns what it printed. Kind itself works
// so, and the program knows contexts, hosts and credentials.
func docker(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdin = stdin
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return out, cause
		}
		return out, fmt.Errorf("docker %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, strings.TrimSpace(said.String()))
	}
	return out, nil
}

// reachable says why Docker cannot be used.
func reachable(ctx context.Context) error {
	if _, err := exec.LookPath("docker"); err != nil {
		return errors.New("kind needs Docker, and there is no docker in PATH: apt-get install docker.io")
	}
	if _, err := docker(ctx, nil, "version", "--format", "{{.Server.Version}}"); err != nil {
		return fmt.Errorf("kind needs a Docker that answers: %w (start it, or run the command by hack/with-docker)", err)
	}
	return nil
}

// kubectl runs kubectl on a node, so that none is needed here.
func kubectl(ctx context.Context, node string, stdin io.Reader, args ...string) ([]byte, error) {
	call := []string{"exec", "-i", node, "kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"}
	out, err := docker(ctx, stdin, append(call, args...)...)
	if err != nil {
		return out, fmt.Errorf("kubectl %s on %s: %w", strings.Join(args[:min(2, len(args))], " "), node, err)
	}
	return out, nil
}

// network is the name of the Docker network that a lab's nodes are on.
func network(cluster string) string { return cluster }

// networkEnv names the network that kind puts nodes on, in its environment
// (kind's pkg/cluster/internal/providers/docker/provider.go).
const networkEnv = "KIND_EXPERIMENTAL_DOCKER_NETWORK"

// onNetwork calls fn with kind told of the network, which it knows no other way
// of.
func onNetwork(name string, fn func() error) (err error) {
	before, had := os.LookupEnv(networkEnv)
	if err := os.Setenv(networkEnv, name); err != nil {
		return err
	}
	defer func() {
		if had {
			err = errors.Join(err, os.Setenv(networkEnv, before))
			return
		}
		err = errors.Join(err, os.Unsetenv(networkEnv))
	}()
	return fn()
}
