package control

import (
	"testing"
	"time"

	"sysmgr/internal/rundir"
)

// hearing is a control actor that attends to web, of which there is nothing to
// know, without its goroutine, its open folder, and what it has delivered.
func hearing(t *testing.T) (*Control, *rundir.Folder, *[]Message) {
	t.Helper()
	c, dir, got := attending(t)
	f, err := dir.Folder("web")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	if err := f.Write(rundir.State, []byte("phase up\n")); err != nil {
		t.Fatal(err)
	}
	c.look("web")
	*got = nil
	return c, f, got
}

// told counts the messages that the service may have said something.
func told(messages []Message) (count int) {
	for _, m := range messages {
		if m.Said {
			count++
		}
	}
	return count
}

// age has all that web has said or taken back be so much longer ago.
func age(c *Control, time time.Duration) {
	k := c.folders["web"]
	k.told = k.told.Add(-time)
	if !k.unsaid.IsZero() {
		k.unsaid = k.unsaid.Add(-time)
	}
}

// What is taken back just after something was said is not told of earlier for that.
func TestWhatIsTakenBackAfterAWordIsToldInItsTime(t *testing.T) {
	c, _, got := hearing(t)
	c.hear("web", said)
	age(c, blink/2)
	c.hear("web", unsaid)
	age(c, blink/2)
	c.look("web")
	if told(*got) != 1 {
		t.Fatalf("when the word is old: told %d times, want of that only", told(*got))
	}
	age(c, blink/2)
	c.look("web")
	if told(*got) != 2 {
		t.Errorf("when both are: told %d times, want of both", told(*got))
	}
}

// Two things that are taken back one after the other are told of, by whichever look
// comes: each knew only of its own time.
func TestWhatIsTakenBackInTwoStepsIsTold(t *testing.T) {
	c, _, got := hearing(t)
	c.hear("web", unsaid)
	age(c, blink/2)
	c.hear("web", unsaid)
	delete(c.again, "web") // that time has come
	c.look("web")
	if told(*got) != 0 {
		t.Fatalf("after half the time: got %+v, want nothing told", *got)
	}
	if _, ok := c.again["web"]; !ok {
		t.Fatal("nobody looks any more")
	}
	age(c, blink/2)
	c.look("web")
	if told(*got) != 1 {
		t.Errorf("after all of it: got %+v, want it told once", *got)
	}
}

// However often a service writes, its actor is told at once, and then once in a
// while, and the last time after the last word.
func TestAServiceThatWritesWithoutEndIsToldOfNowAndThen(t *testing.T) {
	c, _, got := hearing(t)
	for range 1000 {
		c.hear("web", said)
	}
	if told(*got) != 1 {
		t.Errorf("told %d times, want once at first", told(*got))
	}
	age(c, blink)
	c.look("web")
	c.hear("web", said)
	if told(*got) != 2 {
		t.Errorf("told %d times in all, want once more", told(*got))
	}
	if _, ok := c.again["web"]; !ok {
		t.Fatal("the last word is never told of")
	}
	age(c, blink)
	c.look("web")
	age(c, blink)
	delete(c.again, "web")
	c.look("web")
	if _, ok := c.again["web"]; told(*got) != 3 || ok || c.folders["web"] != nil && c.folders["web"].pending != nil {
		t.Errorf("told %d times, looks again: %t; want 3, and nothing more", told(*got), ok)
	}
}
