package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// format is the value of -o; it refuses what the command does not print.
type format struct {
	value   string
	allowed []string
}

// String implements pflag.Value.
func (f *format) String() string { return f.value }

// Type implements pflag.Value.
func (f *format) Type() string { return "form" }

// Set implements pflag.Value.
func (f *format) Set(v string) error {
	if !slices.Contains(f.allowed, v) {
		return fmt.Errorf("%q is none of %s", v, strings.Join(f.allowed, ", "))
	}
	f.value = v
	return nil
}

// outputFlag adds -o, whose first format is the default.
func outputFlag(cmd *cobra.Command, formats ...string) *format {
	f := &format{value: formats[0], allowed: formats}
	cmd.Flags().VarP(f, "output", "o", "the form of what is printed: "+strings.Join(formats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	return f
}

// encode prints v as JSON or YAML.
func (f *format) encode(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the output: %w", err)
	}
	if f.value == "yaml" {
		if b, err = yaml.JSONToYAML(b); err != nil {
			return fmt.Errorf("encode the output: %w", err)
		}
		b = []byte(strings.TrimSuffix(string(b), "\n"))
	}
	_, err = fmt.Fprintln(w, string(b))
	return err
}
