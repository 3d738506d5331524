package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Sysctls reads kernel parameters of the namespace. A key is a path under
// /proc/sys, as net/ipv4/ip_forward (names of links may have dots in them),
// and may have wildcards as those of filepath.Match. What is not there is not
// in the answer.
func (s *Session) Sysctls(ctx context.Context, keys ...string) (map[string]string, error) {
	return ask(ctx, s, kindSysctls, keys, func() (map[string]string, error) { return s.sysctls(ctx, keys) })
}

func (s *Session) sysctls(ctx context.Context, keys []string) (map[string]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	const root = "/proc/sys/"
	values := map[string]string{}
	err := s.local.Do(func() error {
		for _, key := range keys {
			paths, err := filepath.Glob(root + key)
			if err != nil {
				return err
			}
			for _, path := range paths {
				b, err := os.ReadFile(path)
				if errors.Is(err, fs.ErrNotExist) {
					continue // its link went away
				}
				if err != nil {
					return err
				}
				values[strings.TrimPrefix(path, root)] = strings.TrimSpace(string(b))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read kernel parameters of %s: %w", s.name, err)
	}
	return values, nil
}
