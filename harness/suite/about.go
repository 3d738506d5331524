package suite

// About says what was judged and where, so that a report can be read by
// somebody who was not there.
type About struct {
	// Overlab is the version of the program that judged.
	Overlab string `json:"overlab"`
	// Agent is the program under test, the one that most nodes run.
	Agent Agent `json:"agent"`
	// Backend is the overlay's, as "vxlan", Network its IPv4 prefix.
	Backend string `json:"backend"`
	Network string `json:"network"`
	Nodes   int    `json:"nodes"`
	Pods    int    `json:"pods"`
	// Kernel is the release, as uname -r prints it; Platform is Go's, as
	// "linux/amd64".
	Kernel     string `json:"kernel"`
	Platform   string `json:"platform"`
	Processors int    `json:"processors"`
	// Levels, Checks and Profiles are what was asked for; empty is all.
	Levels   []Level  `json:"levels,omitempty"`
	Checks   []string `json:"checks,omitempty"`
	Profiles []string `json:"profiles,omitempty"`
}

// Agent is the program under test.
type Agent struct {
	Name string `json:"name"`
	// Version is what its user says that it is; empty where nobody does.
	Version string `json:"version,omitempty"`
	// Command is how the lab starts it; empty where its nodes were made by hand.
	Command []string `json:"command,omitempty"`
}

// Attachment is something that helps to understand a report and that no
// verdict rests on, as a walk or a comparison.
type Attachment struct {
	Title string `json:"title"`
	// Says is what it comes to, in a line, where there is such a thing.
	Says string `json:"says,omitempty"`
	// File is its name in the evidence's folder, without a folder.
	File string `json:"file"`
	// Type is text/plain, text/x-diff for what Diff of the package report writes,
	// text/html or image/svg+xml.
	Type string `json:"type"`
	Data []byte `json:"-"`
	// Leads says that it shows what broke, and belongs before the checks.
	Leads bool `json:"leads,omitempty"`
}

// Repeat says which of several runs a report is of.
type Repeat struct {
	// Run counts from 1; Runs is how many there were.
	Run  int `json:"run"`
	Runs int `json:"runs"`
	// Unsound counts the runs that did not end with exit code 0.
	Unsound int `json:"unsound"`
}
