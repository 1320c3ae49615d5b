package e2e

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sysmgr/internal/have"
)

// typed is the text of the lines of an SVG that begin with a prompt, and how
// many others there are.
func typed(t *testing.T, svg []byte) (commands []string, others int) {
	t.Helper()
	in := xml.NewDecoder(strings.NewReader(string(svg)))
	var line strings.Builder
	inside := false
	for {
		token, err := in.Token()
		if errors.Is(err, io.EOF) {
			return commands, others
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			inside = inside || token.Name.Local == "text"
		case xml.CharData:
			if inside {
				line.Write(token)
			}
		case xml.EndElement:
			if token.Name.Local != "text" {
				continue
			}
			if strings.HasPrefix(line.String(), "$ ") {
				commands = append(commands, line.String())
			} else {
				others++
			}
			line.Reset()
			inside = false
		}
	}
}

// The picture in the README was made by the script beside it from what the
// commands really say.
func TestPictureIsOfARealRun(t *testing.T) {
	t.Parallel()
	have.Program(t, "script", "bsdutils")
	kept, err := os.ReadFile("../../contrib/screen/session.svg")
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("../../contrib/screen/record")
	if err != nil {
		t.Fatal(err)
	}
	out, err := run(t, t.TempDir(), "set +x; TMPDIR=$PWD '"+script+"' '"+bin+"' 2>/dev/null", "GORACE=atexit_sleep_ms=0")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	at := strings.Index(out, "<svg ")
	if at < 0 {
		t.Fatalf("got no picture:\n%s", out)
	}
	fresh, answers := typed(t, []byte(out[at:]))
	want, _ := typed(t, kept)
	if len(want) == 0 || !slices.Equal(fresh, want) {
		t.Errorf("commands: got %q, want those of the picture, %q (make screen)", fresh, want)
	}
	if answers < 8 {
		t.Errorf("the commands said %d lines:\n%s", answers, out[at:])
	}
}
