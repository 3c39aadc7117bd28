# Completion of netnsctl for bash.
_netnsctl() {
    # Bash splits words at : and =, among others (COMP_WORDBREAKS); netnsctl wants them whole.
    local line=$COMP_LINE piece words=() index=0 i
    for ((i = 0; i < ${#COMP_WORDS[@]}; i++)); do
        piece=${COMP_WORDS[i]}
        if ((i == 0)) || [[ $line == [[:space:]]* ]]; then
            words+=("$piece")
        else
            words[${#words[@]} - 1]+=$piece
        fi
        line=${line#"${line%%[![:space:]]*}"}
        line=${line#"$piece"}
        ((i == COMP_CWORD)) && index=$((${#words[@]} - 1))
    done
    # The part of the word that readline keeps.
    local word=${words[index]} kept=
    [[ $word == *[:=]* && $COMP_WORDBREAKS == *[:=]* ]] && kept=${word%"${word##*[:=]}"}

    local IFS=$'\013'
    COMPREPLY=($(_CLAP_IFS=$IFS _CLAP_COMPLETE_INDEX=$index _CLAP_COMPLETE_COMP_TYPE=$COMP_TYPE \
        _CLAP_COMPLETE_SPACE=false COMPLETE=bash netnsctl -- "${words[@]}")) || COMPREPLY=()
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
    [[ ${COMPREPLY-} == *[=/:] ]] || compopt +o nospace 2>/dev/null
}
complete -o nospace -o bashdefault -o nosort -F _netnsctl netnsctl
