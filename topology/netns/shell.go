package netns

import (
	"fmt"
	"os"
)

// shellStart is what an interactive bash reads in the lab.
const shellStart = labFolder + "/bashrc"

// ShellCommand is the command of an interactive shell whose prompt names the
// node or pod, as on the machines of the articles.
func ShellCommand() []string {
	return []string{"sh", "-c", `if command -v bash >/dev/null; then exec bash --rcfile ` + shellStart + ` -i; fi
PS1='root@'$HOSTNAME':/# ' exec sh -i`}
}

// writeShellStart writes what interactive shells read.
func writeShellStart() error {
	const text = `PS1='root@\h:\w# '
cd /
`
	if err := os.WriteFile(shellStart, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", shellStart, err)
	}
	return nil
}
