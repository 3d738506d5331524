package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/topology"
)

func (c command) version() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version, and that of the file format",
		Example: "  overlab version\n  overlab version -o json",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(cmd, "table", "json", "yaml")
	cmd.RunE = func(*cobra.Command, []string) error {
		v := struct {
			APIVersion string `json:"apiVersion"`
			Version    string `json:"version"`
			Go         string `json:"go"`
			Platform   string `json:"platform"`
		}{topology.APIVersion, buildVersion(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
		if out.value != "table" {
			return out.encode(c.out, v)
		}
		fmt.Fprintf(c.out, "overlab %s (%s, %s, %s)\n", v.Version, v.APIVersion, v.Go, v.Platform)
		return nil
	}
	return cmd
}

// buildVersion is the module's version, or the commit that was built.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if len(revision) > 12 {
		revision = revision[:12]
	}
	if revision == "" {
		return "development build"
	}
	return revision + dirty
}
