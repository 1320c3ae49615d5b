package rig

import (
	"bytes"
	"encoding/json"
	"os"
)

// Line is a line of the daemon's log in JSON: the fields that tests read.
type Line struct {
	Message string `json:"msg"`
	Service string `json:"service"`
	Event   string `json:"event"`
	Verb    string `json:"verb"`
	Request string `json:"request"`
	Refused string `json:"refused"`
	Phase   string `json:"phase"`
	Pid     int    `json:"pid"`
}

// Lines reads the log of a daemon that was started with -l json. Other is
// what is no such line: written by services, or by a runtime in distress.
func (r *Rig) Lines() (lines []Line, other []string) {
	r.t.Helper()
	text, err := os.ReadFile(r.Log)
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if line[len(line)-1] != '\n' {
			break // still being written
		}
		var l Line
		if json.Unmarshal(line, &l) == nil && l.Message != "" {
			lines = append(lines, l)
		} else {
			other = append(other, string(line))
		}
	}
	return lines, other
}
