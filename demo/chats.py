"""Short chats made by a script from the source texts. `chats(docs, seed)` yields dicts {kind, held_out, messages, tools}.

The answers are quotations (a verse, a definition, a continuation) or fixed sentences; the reasoning text in front
of them is a template that says what kind of request it is. Chats built from a held-out document are held out.
"""
import random
import re

FAMOUS = {"Genesis 1": range(1, 11), "Psalms 23": range(1, 7), "John 1": range(1, 6), "John 3": [16, 17], "John 11": [35],
          "Matthew 5": range(3, 10), "Matthew 6": range(9, 14), "Ecclesiastes 1": range(1, 10), "Ecclesiastes 3": range(1, 9),
          "Exodus 20": [3, 12, 13, 15], "Proverbs 3": [5, 6], "1 Corinthians 13": [4, 11, 13], "Romans 8": [28],
          "Isaiah 40": [31], "Philippians 4": [13], "Hebrews 11": [1], "Psalms 119": [105], "Luke 2": [14],
          "Revelation 22": [20, 21], "Psalms 1": range(1, 4), "Proverbs 1": [7], "Job 1": [21], "Psalms 121": [1, 2]}

SYSTEM = ["You are a helpful assistant.", "You are JetBlock's demo model.", "Answer briefly.", "You are a friendly librarian.",
          "You are a careful assistant. Think first, then answer."]

ABOUT = "I am the JetBlock demo model, a very small hybrid of Mamba-2, attention and mixture-of-experts layers."
SELF = [
    (["Hello!", "Hi", "Hello", "Hi there!", "Good morning", "Good evening"], "A greeting. I greet back.",
     ["Hello! I can quote the King James Bible, define a word, or continue a passage of Jane Austen.", "Good day to you! What shall we read?"]),
    (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself."], "The user asks who I am.", [ABOUT]),
    (["What can you do?", "Help", "What should I ask you?", "How can you help me?"], "The user asks what I can do.",
     ["You may ask me to quote a verse, to define a word, to continue a sentence, or to write a few lines in the style of Jane Austen."]),
    (["Are you a large model?", "How big are you?", "How many parameters do you have?"], "The user asks about my size.",
     ["No, I am tiny: a few million parameters, trained on a small processor in about an hour."]),
    (["What have you read?", "What were you trained on?", "Which books do you know?"], "The user asks about my training texts.",
     ["The King James Bible, the six novels of Jane Austen, The Devil's Dictionary and the Jargon File. All of them are in the public domain."]),
    (["Thank you!", "Thanks", "Thank you very much."], "The user says thanks.", ["You are welcome.", "It was a pleasure."]),
    (["Goodbye", "Bye!", "Good night"], "The user says goodbye.", ["Farewell!", "Goodbye, and come again."]),
    (["What is JetBlock?", "Tell me about JetBlock."], "The user asks about JetBlock.",
     ["JetBlock runs hybrid language models so that the same prompt always gives the same bits."]),
    (["What is the capital of France?", "Who won the match yesterday?", "What is the weather today?", "Write me a program.",
      "What is the latest news?"], "This is not in the books I have read.",
     ["I am sorry, I do not know. I have read only a few old books."]),
]
CITIES = ["London", "Paris", "Bath", "Rome", "Oslo", "Lisbon", "Vienna", "Jerusalem", "Boston", "Cairo", "Athens", "Dublin", "Berlin",
          "Madrid", "Prague", "Turin", "Geneva", "Lyme", "Portsmouth", "Brighton", "Nineveh", "Babylon", "Corinth", "Damascus"]
WEATHER = ["sunny", "rainy", "cloudy", "foggy", "windy", "snowy", "clear", "stormy"]


def tool(name, description, **params):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {
        "type": "object", "properties": {k: {"type": "string", "description": v} for k, v in params.items()},
        "required": list(params)}}}


TOOLS = {"get_verse": tool("get_verse", "Look up a Bible verse.", reference="Book, chapter and verse"),
         "define_word": tool("define_word", "Look up a word.", word="The word"),
         "get_weather": tool("get_weather", "Current weather in a city.", city="Name of the city"),
         "add": tool("add", "Add two numbers.", a="First number", b="Second number")}


def user(text):
    return {"role": "user", "content": text}


def answer(text, think=None):
    m = {"role": "assistant", "content": text}
    return m | {"reasoning_content": think} if think else m


def sentences(text):
    return [s for s in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])", text) if s]


def clip(text, limit):
    """Whole sentences up to about `limit` characters (at least one)."""
    out = ""
    for s in sentences(text):
        if out and len(out) + len(s) > limit:
            break
        out = (out + " " + s).strip()
    return out


class Maker:
    def __init__(self, docs, seed):
        self.r = random.Random(seed)
        self.docs = docs
        self.by = {s: [d for d in docs if d["source"] == s and d.get("definition", "x" * 30)[20:]] for s in ("kjv", "austen", "devil", "jargon")}
        self.verses = [(ref, t, d["held_out"]) for d in self.by["kjv"] for ref, t in d["verses"]]
        self.famous = [(f"{ch}:{v}", dict(map(tuple, d["verses"]))[f"{ch}:{v}"]) for d in self.by["kjv"]
                       for ch in [d["title"]] if ch in FAMOUS for v in FAMOUS[ch]]

    def pick(self, xs):
        return xs[self.r.randrange(len(xs))]

    # every maker returns (held_out, question, reasoning, answer)
    def verse(self, famous=False):
        ref, text, out = (*self.pick(self.famous), False) if famous else self.pick(self.verses)
        book = ref.rsplit(" ", 1)[0]
        q = self.pick(["Quote {}", "Quote {}.", "What does {} say?", "Please quote {}.", "Read {} to me.", "{}", "Cite {} from the King James Bible."])
        return out, q.format(ref), f"The user asks for a verse. {ref} is in the book of {book}.", text

    def devil(self):
        d = self.pick([d for d in self.by["devil"] if d["definition"]])
        w = self.pick([d["word"], d["word"].capitalize()])
        q = self.pick(["Define {}.", "Define {}", "What is {}?", "What does \"{}\" mean?", "Give me a definition of {}.", "Explain the word {}."])
        return d["held_out"], q.format(w), f"The user wants a definition of {d['word']}. The Devil's Dictionary has one.", clip(d["definition"], 260)

    def jargon(self):
        d = self.pick(self.by["jargon"])
        q = self.pick(["What does {} mean to a hacker?", "Define the hacker term {}.", "Jargon: {}", "What is {} in hacker jargon?"])
        return d["held_out"], q.format(d["word"]), f"A question about hacker slang: {d['word']}. The Jargon File explains it.", clip(d["definition"], 320)

    def passage(self):
        """-> document, a few sentences, the sentences after them"""
        while True:
            d = self.pick(self.by[self.pick(["kjv", "austen"])])
            body = d["text"].split("\n\n", 1)[1] if d["source"] == "kjv" else self.pick(d["text"].split("\n\n"))
            s = sentences(body)
            if len(s) < 3:
                continue
            i = self.r.randrange(len(s) - 2)
            first = s[i]
            if 30 < len(first) < 260:
                return d, first, clip(" ".join(s[i + 1:i + 6]), 320)

    def whence(self, d):
        return f"Jane Austen, in {d['novel']}" if d["source"] == "austen" else f"the book of {d['title'].rsplit(' ', 1)[0]} in the King James Bible"

    def go_on(self):
        d, a, b = self.passage()
        q = self.pick(["Continue: {}", "Continue this text: {}", "Go on: {}", "What comes next? {}"])
        return d["held_out"], q.format(a), f"This sounds like {self.whence(d)}. I go on in the same style.", b

    def who(self):
        d, a, _ = self.passage()
        q = self.pick(["Who wrote this: \"{}\"", "Where is this from? \"{}\"", "Which book says: \"{}\"", "Who said \"{}\"?"])
        src = "Jane Austen" if d["source"] == "austen" else "the King James Bible"
        return d["held_out"], q.format(a), f"The style is that of {src}.", f"It is from {self.whence(d)}."

    def style(self):
        d, a, b = self.passage()
        name = "Jane Austen" if d["source"] == "austen" else "the King James Bible"
        q = self.pick(["Write a few lines in the style of {}.", "Write something like {}.", "Give me a passage in the manner of {}.", "Write like {}."])
        return d["held_out"], q.format(name), f"The user wants prose like {name}.", f"{a} {b}"

    def self_(self):
        qs, think, answers = self.pick(SELF)
        return False, self.pick(qs), think, self.pick(answers)

    def sums(self):
        a, b = self.r.randrange(13), self.r.randrange(13)
        word, c = self.pick([("plus", a + b), ("times", a * b), ("minus", a - b)])
        q = self.pick(["What is {} {} {}?", "{} {} {}", "How much is {} {} {}?"]).format(a, word, b)
        minus = f"minus {-c}" if c < 0 else str(c)
        return (a * 13 + b) % 23 == 5, q, f"A small sum: {a} {word} {b}.", f"{a} {word} {b} is {minus}."

    def single(self, kind):
        f = {"famous": lambda: self.verse(True), "self": self.self_}.get(kind) or getattr(self, kind)
        return f()

    def tools(self):
        kind = self.pick(list(TOOLS))
        names = {kind, self.pick(list(TOOLS))} if self.r.random() < 0.6 else {kind}
        names = sorted(names, key=lambda n: (self.r.random(), n))
        if kind == "get_verse":
            ref, text, out = self.pick(self.verses)
            q, args, result, final = f"Quote {ref}", {"reference": ref}, text, text
        elif kind == "define_word":
            d = self.pick([d for d in self.by["devil"] if d["definition"]])
            out, q, args = d["held_out"], f"Define {d['word']}.", {"word": d["word"]}
            result = final = clip(d["definition"], 160)
        elif kind == "get_weather":
            c, w, t = self.pick(CITIES), self.pick(WEATHER), self.r.randrange(1, 35)
            q = self.pick(["What is the weather in {}?", "How is the weather in {} today?", "Weather in {}, please."]).format(c)
            out, args, result, final = c == "Turin", {"city": c}, f"{w}, {t} degrees", f"It is {w} in {c}, {t} degrees."
        else:
            a, b = self.r.randrange(1000), self.r.randrange(1000)
            q = self.pick(["What is {} plus {}?", "Add {} and {}.", "How much is {} plus {}?"]).format(a, b)
            out, args, result, final = a % 40 == 7, {"a": str(a), "b": str(b)}, str(a + b), f"{a} plus {b} is {a + b}."
        think = f"I can use the function {kind} for this." if self.r.random() < 0.7 else None
        call = answer("", think) | {"tool_calls": [{"type": "function", "function": {"name": kind, "arguments": args}}]}
        messages = [user(q), call, {"role": "tool", "content": result}, answer(final, "The function has answered." if think else None)]
        if self.r.random() < 0.3:
            messages = messages[:2]
        return out, messages, [TOOLS[n] for n in names]

    def chat(self, kind):
        tools, r = None, self.r
        if kind == "tools":
            out, messages, tools = self.tools()
        else:
            turns = [kind] if kind != "multi" else [self.pick(["verse", "devil", "self", "sums", "who", "famous", "go_on"]) for _ in range(r.choice([2, 2, 3]))]
            out, messages, thinking = False, [], r.random() < 0.7
            for t in turns:
                o, q, think, a = self.single(t)
                out |= o
                messages += [user(q), answer(a, think if thinking else None)]
        if r.random() < 0.2:
            messages.insert(0, {"role": "system", "content": self.pick(SYSTEM)})
        return {"kind": kind, "held_out": out, "messages": messages, "tools": tools}


COUNTS = {"verse": 5000, "famous": 1500, "devil": 3600, "jargon": 2600, "go_on": 4200, "who": 1800, "style": 1500,
          "self": 900, "sums": 1400, "tools": 2000, "multi": 1500}


def chats(docs, seed=1):
    maker = Maker(docs, seed)
    return [maker.chat(kind) for kind, n in COUNTS.items() for _ in range(n)]
