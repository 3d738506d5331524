// Package order is what the machine that runs the tests, and the one that
// ordered them, have to agree on.
package order

const (
	// JobsFile holds the jobs in the guest, a JSON array of Job.
	JobsFile = "/jobs.json"
	// Modules is the guest's folder of kernel modules, IndexFile the JSON
	// object that maps the name of each to a Module.
	Modules   = "/lib/modules"
	IndexFile = Modules + "/index.json"
	// Port is the serial port that reports go to, a JSON Report a line.
	Port = "/dev/ttyS1"
)

// Job is one command for the guest.
type Job struct {
	// Name is the import path of the package whose tests it runs; of a shell
	// command it is empty.
	Name string
	// Dir is the working folder, Command the program and its arguments.
	Dir     string
	Command []string
}

// Module is a kernel module.
type Module struct {
	// Needs are the modules that must be loaded before, by name.
	Needs []string `json:",omitempty"`
	// Aliases are the patterns by which the kernel asks for it.
	Aliases []string `json:",omitempty"`
}

// Report is a line from the guest. The first says only Ready.
type Report struct {
	Ready bool `json:",omitempty"`
	// Job is the index of the job that a report is about.
	Job int
	// Output is what it printed.
	Output string `json:",omitempty"`
	// Exit is its exit code, at its end; 128+N after signal N.
	Exit *int `json:",omitempty"`
	// Error says why the guest could not go on.
	Error string `json:",omitempty"`
}
