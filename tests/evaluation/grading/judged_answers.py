"""Answers judged by hand: a line each, what was answered, a bar, and what it is compared with."""
# ruff: noqa: RUF001 -- lines of texts; the marks are meant

RIGHT = r"""
The interval is (−∞, 3].|(-\infty,3]
The answer is \frac{3}{4} of it.|3/4
3\frac{1}{2} cups|7/2
The answer is 3\frac{1}{2}.|7/2
The answer is 2√3.|2\sqrt{3}
It is √(12) cm|2\sqrt{3}
The answer is −5.|-5
The set is {1, 2}.|\{1,2\}
The answer is x > 3.|x > 3
2√3 cm|2\sqrt{3}
The answer is \$12.|12
It costs $12.50|12.5
The total is $1,250.|1250
∞|\infty
\boxed{42}|42
The answer is \boxed{\frac{1}{2}}.|1/2
−5|-5
x = 42|42
(3, 4)|(3,4)
\boxed{5\text{ cm}}|5
\boxed{5 \text{ cm}}|5\text{ cm}
5 cm|5
5 cm|5 cm
\boxed{10\,\text{m/s}}|10
$12|12
\$12|12
\boxed{\$12}|12
50\%|0.5
50%|50\%
50%|50%
50%|0.5
\boxed{50\%}|50
12 apples|12
x=5|x = 5
$x = -3$|-3
x = 1/2|\frac12
y = 2x + 1|2x+1
\boxed{y=2x+1}|y = 2x + 1
n = −7|-7
$-\frac{3}{4}$|-0.75
−3/4|-\frac{3}{4}
−0.75|-3/4
\boxed{-\dfrac{3}{4}}|-3/4
\tfrac{3}{4}|0.75
3\frac{1}{2}|7/2
[0, 1)|[0,1)
\boxed{[0,1)}|[0, 1)
$(-\infty, 3]$|(-\infty,3]
(−∞, 3]|(-\infty, 3]
(-∞, 3]|(-\infty, 3]
[0, 1) \cup (2, 3]|[0,1)\cup(2,3]
[0,1) ∪ (2,3]|[0,1)\cup(2,3]
\{1, 2, 3\}|\{3,2,1\}
{1, 2, 3}|\{1,2,3\}
\boxed{\{1,2,3\}}|{3, 2, 1}
$\{1,2\}$|\{2,1\}
1, 2, 3|\{1,2,3\}
x = 1 or x = 2|\{1,2\}
x = 1, x = 2|1, 2
(1, 2), (3, 4)|(1,2),(3,4)
\pi|π
2π|2\pi
\frac{\pi}{4}|π/4
√2|\sqrt{2}
\sqrt{2}|√2
\sqrt 2|\sqrt{2}
2√3|2\sqrt{3}
\frac{\sqrt{3}}{2}|√3/2
x²|x^2
x^2|x²
2^{10}|1024
1{,}000|1000
1,000|1000
1,000,000|1000000
1 000|1000
10^6|1000000
1e6|1000000
1.5 \times 10^3|1500
1.5×10^3|1500
90^\circ|90
90°|90
90°|90^\circ
\infty|∞
-\infty|−∞
x \in [0, 1]|[0,1]
x ∈ [0, 1]|[0,1]
x > 3|(3, \infty)
x \ge 3|[3, \infty)
1 < x < 2|(1,2)
x > 3|x > 3
x ≥ 3|x \ge 3
**42**|42
The answer is **42**.|42
Answer: 42|42
So the final answer is 42.|42
\( \frac{3}{5} \)|3/5
\[ x = 7 \]|7
\fbox{42}|42
\boxed{\text{Yes}}|Yes
Yes|Yes
\text{Yes}|Yes
\boxed{42.0}|42
42.|42
$\emptyset$|\emptyset
∅|\emptyset
\varnothing|\emptyset
1/2|0.5
.5|0.5
0.333333|1/3
\binom{5}{2}|10
5!|120
e^{2}|e^2
\ln 2|\ln(2)
\log_2 8|3
i|i
3+4i|4i+3
\begin{pmatrix}1&2\\3&4\end{pmatrix}|\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
x^2+2x+1|(x+1)^2
$\frac{a}{b}$|a/b
3:4|3:4
3 : 4|3:4
½|1/2
¾|3/4
\boxed{½}|0.5
−½|-1/2
－5|-5
–5|-5
５|5
+5|5
a = 3, b = 4|3,4
\boxed{x=3}|3
\boxed{x = \frac{1}{2}}|1/2
The solution is x = 42.|42
Therefore, $x = 42$.|42
\boxed{\boxed{42}}|42
\boxed{\mathbf{42}}|42
\boxed{ 42 }|42
$$42$$|42
42 units|42
42 square units|42
42 cm^2|42
42\text{ cm}^2|42
\boxed{42\ \mathrm{km}}|42
42 m²|42
3.5 hours|3.5
\frac{7}{2}\text{ hours}|7/2
7/2 hours|3.5
100 dollars|100
€5|5
£5|5
5 €|5
\boxed{-7}|-7
\boxed{\frac{-3}{4}}|-3/4
\boxed{\left[0, 1\right)}|[0,1)
\left(-\infty, 3\right]|(-\infty,3]
\left\{1, 2\right\}|\{2,1\}
The values are \boxed{2} and \boxed{3}.|\{2, 3\}
x = −42|-42
x=\boxed{42}|42
First $x=1$. Finally \boxed{2}|2
\boxed{6\pi}|6π
6π cm²|6\pi
\boxed{12\text{ apples}}|12
\boxed{12\%}|12\%
\frac12|0.5
2/4|1/2
0.50|1/2
100/200|1/2
(0.5, 2)|(1/2, 2)
\left(\frac{1}{2}, 2\right)|(0.5,2)
\boxed{(1, -2)}|(1,−2)
\boxed{\sqrt{8}}|2\sqrt{2}
\boxed{2^5}|32
t = 3 s|3
\boxed{t = 3}|3
n ∈ \{1, 2\}|\{1,2\}
the answer is 1/2|1/2
the answer is −1/2|-1/2
It is [0, 1).|[0,1)
The range is [−1, 1].|[-1,1]
The point is (3, 4).|(3,4)
\boxed{x \ge 2}|x ≥ 2
\boxed{1.25}|5/4
1.25|1\frac{1}{4}
"""
"""Right by grader ``math``: answer and reference answer."""
WRONG = r"""
3\frac{1}{2}|1/2
3\frac{1}{2} cups|1/2
2\sqrt{3}|\sqrt{3}
-\frac{1}{2}|1/2
x > 3|(2, \infty)
2√3 cm|\sqrt{3}
The answer is 3\frac{1}{2}.|1/2
\boxed{43}|42
5|-5
−5|5
−5|-6
x = 41|42
(4, 3)|(3,4)
(3, 5)|(3,4)
[0, 1]|[0,1)
(0, 1)|[0,1)
(−∞, 3)|(-\infty,3]
[0,1) ∪ (2,3)|[0,1)\cup(2,3]
\{1,2\}|\{1,2,3\}
\{1,2,4\}|\{1,2,3\}
{1, 2}|\{1,2,3\}
1/3|1/2
\frac{1}{3}|1/2
0.33|1/3
0.3|1/3
50\%|50.5
5%|0.5
3\frac{1}{2}|3/2
31/2|7/2
\pi|3.14
3.14|\pi
√3|\sqrt{2}
2√3|\sqrt{3}
x^3|x^2
x²|x^3
x²|x2
1,000|1
1,001|1000
1 000|1
2^{10}|1000
10^5|1000000
90°|\pi/4
x > 3|x < 3
x ≥ 3|x > 3
x > 3|[3, \infty)
Yes|No
\boxed{\text{Yes}}|No
No|Yes
|42
I do not know|42
42 is not the answer, it is 43|42
\boxed{41} or so, maybe 42|41.5
½|1/3
½|2
1½|1/2
3:5|3:4
4:3|3:4
\infty|-\infty
∅|0
\emptyset|\{0\}
x+1|x-1
(x+1)^2|x^2+1
3+4i|3-4i
\begin{pmatrix}1&2\\3&4\end{pmatrix}|\begin{pmatrix}1&3\\2&4\end{pmatrix}
\sin x|\cos x
5 cm|6 cm
5 cm|5.1
50|5
5|50
-42|42
\boxed{}|42
\boxed{x}|42
x|42
\binom{5}{2}|5
$12|13
100 dollars|10
x = 1 or x = 3|\{1,2\}
x = 1|\{1,2\}
1, 2|\{1,2,3\}
\boxed{7}|-7
\boxed{\frac{3}{4}}|-3/4
\boxed{[0, 1]}|[0,1)
\left(-\infty, 3\right)|(-\infty,3]
The values are \boxed{2} and \boxed{4}.|\{2, 3\}
x = −42|42
x=\boxed{43}|42
First $x=2$. Finally \boxed{1}|2
\boxed{5\pi}|6π
6 cm²|6\pi
\boxed{11\text{ apples}}|12
\boxed{12}|11
\frac13|0.5
0.51|1/2
(0.5, 3)|(1/2, 2)
\boxed{(1, 2)}|(1,−2)
\boxed{\sqrt{7}}|2\sqrt{2}
\boxed{2^4}|32
t = 4 s|3
the answer is 1/3|1/2
the answer is 1/2|-1/2
It is [0, 1].|[0,1)
The range is [0, 1].|[-1,1]
The point is (4, 3).|(3,4)
\boxed{x > 2}|x ≥ 2
\boxed{1.2}|5/4
−½|1/2
2½|2
x²+1|x^2
10⁶|10^5
"""
"""Wrong by grader ``math``."""
LETTERS = r"""
B|B
b|B
(B)|B
[B]|B
B)|B
B.|B
 B |B
**B**|B
**(B)**|B
*B*|B
`B`|B
$B$|B
"B"|B
\boxed{B}|B
\boxed{(B)}|B
\boxed{\text{B}}|B
\boxed{\textbf{(B)}}|B
\boxed{\mathrm{B}}|B
\boxed{\mathbf{B}}|B
$\boxed{B}$|B
\boxed{ B }|B
\boxed{B.}|B
\boxed{B) 12}|B
\boxed{\textbf{(B) } 12}|B
\boxed{\text{(B)}}|B
Answer: B|B
answer: b|B
**Answer:** B|B
**Answer: B**|B
Answer: (B)|B
Answer: **B**|B
The answer is B|B
The answer is B.|B
The answer is (B).|B
The answer is: B|B
The answer is **B**.|B
The answer is **(B)**.|B
The answer is $\boxed{B}$.|B
The correct answer is B.|B
The correct option is B.|B
The correct choice is (B).|B
So the correct answer is option B.|B
Therefore, the answer is option (B).|B
The final answer is B.|B
Final answer: B|B
Final Answer: **B**|B
Option B|B
Option B is correct.|B
Option (B)|B
Choice B|B
(B) is correct.|B
B is correct.|B
B is the correct answer.|B
The answer must be B.|B
The answer would be B.|B
The right answer is B.|B
B) the mitochondrion|B
(B) the mitochondrion|B
B. the mitochondrion|B
B: the mitochondrion|B
**B.** the mitochondrion|B
**B) the mitochondrion**|B
**B**: the mitochondrion|B
The answer is A. No, wait: the answer is B.|B
A is wrong because of x, so the answer is B.|B
First \boxed{A}, then \boxed{B}.|B
The answer is (C), so \boxed{B}.|B
答案：B|B
答案是B。|B
答案是 B|B
The answer is C.|C
\boxed{D}|D
(E)|E
Answer: A|A
The answer is a dog|-
The answer is 12|-
I would take a walk|-
A dog barks|-
no idea|-
\boxed{12}|-
B and C|-
The answer is Ada|-
|-
Both A and B look right.|-
I think it is tall.|-
"""
"""The letter that grader ``choice`` finds in an answer; ``-``: none."""


def pairs(table: str) -> list[tuple[str, str]]:
    """(answer, what it is compared with) of each line."""
    lines = table.strip("\n").split("\n")
    return [(answer, other) for answer, _, other in (line.rpartition("|") for line in lines)]
