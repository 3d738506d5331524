package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// binFolder holds the lab's own commands, in front of every PATH.
const binFolder = "/run/overlab/bin"

// environment is what processes in a lab start with: the caller's, with the
// lab's commands in front, sbin where ip(8) and bridge(8) live, and the
// node's or pod's name.
func environment(base []string, host, lab string) []string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	var env []string
	for _, e := range base {
		if p, ok := cutEnv(e, "PATH"); ok {
			path = p + ":" + path
			continue
		}
		env = append(env, e)
	}
	return append(env,
		"PATH="+binFolder+":"+unique(path),
		"HOSTNAME="+host,
		"OVERLAB_LAB="+lab,
	)
}

// unique drops repeated folders, keeping the first of each.
func unique(path string) string {
	seen := map[string]bool{}
	var out []string
	for _, dir := range filepath.SplitList(path) {
		if !seen[dir] && filepath.IsAbs(dir) {
			seen[dir] = true
			out = append(out, dir)
		}
	}
	return strings.Join(out, ":")
}

func cutEnv(entry, name string) (string, bool) {
	return strings.CutPrefix(entry, name+"=")
}

// findIn looks a program up in the folders of path.
func findIn(path, name string) (string, error) {
	if strings.ContainsRune(name, '/') {
		return name, nil
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if st, err := os.Stat(file); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			return file, nil
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return "", fmt.Errorf("look up %s: %w", name, err)
		}
	}
	return "", fmt.Errorf("%s: %w in %s", name, errNoProgram, path)
}

// errNoProgram says that a program is in no folder of PATH.
var errNoProgram = errors.New("no such program")
